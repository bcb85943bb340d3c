"""Fixtures for several rooms: a tiny dataset of real NIfTI files, and the folder of real volumes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path

# Threads of torch that wait for one another sleep, also in all processes that tests start: where other programs want
# the cores, they would burn their share of them (ten times the processor's time at a load of 10).
os.environ["OMP_WAIT_POLICY"] = "passive"
# One thread each: they would wait for each other, and figures that are compared depend on how many there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.interpreter import shorten_calls
from tests.pairs import few_with_all_pairs
from tests.planned import plan_packs, plan_study, start_apply, wait_for_fixture, write_sweep, write_tree_fixture
from tests.scans import dataset, make_spec, write_scan

__all__ = [
    "dataset",
    "make_spec",
    "plan_packs",
    "plan_study",
    "start_apply",
    "wait_for_fixture",
    "write_scan",
    "write_sweep",
    "write_tree_fixture",
]

# A busy machine takes longer over an example than hypothesis allows by default.
settings.register_profile("any-load", deadline=None)
settings.load_profile("any-load")

# Hundreds of processes import hpcseg: compiled once, whatever the caller's environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A suite that a script starts in the background ignores Ctrl-C, or with nohup the end of its terminal; so would all
# that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Without a GPU, Triton's interpreter runs the kernels; Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

DatasetWriter = Callable[..., Path]
Storm = Callable[[int, int], int]

# Processes take one file after the other: the long ones first, so that none is left alone with one at the end; and
# those that wait for Slurm and processes are spread among those that compute, so that no core idles.
WAITING = ("slurm/test_survival", "slurm/test_submission", "slurm/", "submit/", "runs/test_status", "test_faults")
COMPUTING = ("test_cli", "volumes/test_packing", "training/", "gpu/", "compiled/", "inference/")
WAITING_END = 0.7  # of the suite's files, when the last that waits begins


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="storms (kills, corruptions, seeds) in full: make test-all")


def pytest_configure(config: pytest.Config) -> None:
    """Have pytest-xdist keep the order of files; by itself it puts files with the most tests first."""
    config.option.loadscopereorder = False


@pytest.fixture(scope="session")
def storm(pytestconfig: pytest.Config) -> Storm:
    """How often a test repeats what is random: `storm(few, full)` is `few`, and `full` under `pytest --all`.

    For storms of signals, corruptions, seeds, where a few show that the test works and many look for the rare case.
    Random numbers are drawn as before, so that the few are the first of the many.
    """
    return lambda few, full: full if pytestconfig.getoption("--all") else few


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Put back what commands and jobs leave of a process: handlers of signals, and where it looks for modules.

    A job that Slurm requeues ignores signals for good, and so would all after it.
    """
    del item
    safe_path = os.environ.get("PYTHONSAFEPATH")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        return (yield)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if safe_path is None:
            os.environ.pop("PYTHONSAFEPATH", None)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs on a GPU; put the files that take long first, while the order within a file stays."""
    if not config.getoption("--all") and not torch.cuda.is_available():
        keep_pairs(config, items)
    without = pytest.mark.skip(reason="no GPU")
    for item in items:
        needs = item.get_closest_marker("needs_gpu") is not None
        if needs or "kernel_device" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")
        if needs and not torch.cuda.is_available():
            item.add_marker(without)

    places = _places({item.path.as_posix().rpartition("/tests/")[2]: item.path for item in items})
    items.sort(key=lambda item: places[item.path])


def _places(files: dict[str, Path]) -> dict[Path, float]:
    """Where each file stands in the suite, from 0 to 1, by its name."""

    def rank(name: str, starts: tuple[str, ...]) -> int:
        return next((place for place, start in enumerate(starts) if name.startswith(start)), len(starts))

    waiting = sorted((name for name in files if name.startswith(WAITING)), key=lambda name: rank(name, WAITING))
    computing = sorted(files.keys() - set(waiting), key=lambda name: (rank(name, COMPUTING), name))
    places = {files[name]: WAITING_END * place / len(waiting) for place, name in enumerate(waiting)}
    return places | {files[name]: place / len(computing) for place, name in enumerate(computing)}


def keep_pairs(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests that are marked so, leave the combinations of parameters that have every two values together."""
    marked: dict[str, list[tuple[pytest.Item, dict[str, str]]]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("pairs"):
            values = {name: repr(value) for name, value in item.callspec.params.items()}
            marked.setdefault(item.nodeid.partition("[")[0], []).append((item, values))
    dropped = {item for few in marked.values() for item, _ in few}
    for few in marked.values():
        dropped -= set(few_with_all_pairs(few))
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = [item for item in items if item not in dropped]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """End a process whose CUDA context a test has broken; xdist and `make gpu` begin another one."""
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:  # an illegal access of memory fails every later call in this process, too
            if "PYTEST_XDIST_WORKER" in os.environ:
                os._exit(70)
            pytest.exit("a test broke the CUDA context", returncode=70)


@pytest.fixture(scope="session")
def kernel_device() -> torch.device:
    """Where kernels run in the tests: the GPU, else the CPU, by Triton's interpreter."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        return torch.device("cuda")
    shorten_calls()
    return torch.device("cpu")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real volumes; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real volumes here: {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def write_dataset() -> DatasetWriter:
    """Write an MSD-layout CT dataset: tissue of 40 HU, a ball of 120 HU (label 1) with a core of 200 HU (label 2)."""

    def write(
        folder: Path,
        *,
        training: int = 6,
        test: int = 2,
        shape_xyz: tuple[int, int, int] = (26, 28, 24),
        spacing: float = 2.0,
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (folder / name).mkdir(parents=True)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape_xyz], indexing="ij"))
        affine = np.diag([spacing, spacing, spacing, 1.0])
        names = [f"case_{index:03d}" for index in range(1, training + test + 1)]
        for index, name in enumerate(names):
            part = "Tr" if index < training else "Ts"
            centre = np.array(shape_xyz) / 2 + rng.uniform(-3, 3, 3)
            distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(axis=0))
            label = (distance < 7).astype(np.uint8) + (distance < 3)
            image = np.choose(label, [40, 120, 200]) + rng.normal(0, 15, shape_xyz)
            image[0] = -1000
            nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / f"images{part}" / f"{name}.nii.gz")
            nib.save(nib.Nifti1Image(label, affine), folder / f"labels{part}" / f"{name}.nii.gz")
        description = {
            "name": folder.name,
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "ball", "2": "core"},
            "training": [
                {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
                for name in names[:training]
            ],
            "test": [f"./imagesTs/{name}.nii.gz" for name in names[training:]],
        }
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_dataset(write_dataset: DatasetWriter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled and two test cases of 26 × 28 × 24 voxels, 2 mm; never written to."""
    return write_dataset(tmp_path_factory.mktemp("data") / "Tiny")


@pytest.fixture
def slurm_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put shell scripts in front of Slurm's commands, by name; returns their folder."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def write(**scripts: str) -> Path:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    return write
