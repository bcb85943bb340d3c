"""The command line as a user types it: real files, exit codes, one-line errors.

Each command, and each kind of end, is tried once in a process of its own (`cli`), the rest within this one (`here`).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.commandline import Cli, call, checked
from tests.waiting import PATIENCE_S, wait_for

SWEEP = """
[run]
data.dataset = "Tiny"
data.test = "Tiny"
data.foreground = [1, 2]
data.folds = 2
preprocessing.spacing = 2.0
patches.size = 16
network.levels = 2
network.kernel = 3
network.maps = 4
training.epochs = 3
training.steps = 4
training.validation_steps = 2
training.batch = 2
training.checkpoint_epochs = 1
autoencoder.epochs = 2
autoencoder.steps = 4
autoencoder.batch = 2
multitask.batch = 2
multitask.autoencoder_batch = 2

[[grid]]
strategy = ["baseline", "transfer", "multitask"]
labelled = [2]
fold = [0, 1]
"""


def start(arguments: tuple[Any, ...], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpcseg", *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`hpcseg` in a process of its own."""

    def run(*arguments: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = start(arguments, tmp_path)
        out, err = process.communicate(timeout=PATIENCE_S)
        return checked(subprocess.CompletedProcess(process.args, process.returncode, out, err), code)

    return run


@pytest.fixture
def here(tmp_path: Path) -> Cli:
    """`hpcseg` in this process."""
    return lambda *arguments, code=0: checked(call(tmp_path, *arguments), code)


@pytest.fixture
def study(tmp_path: Path, tiny_dataset: Path) -> Path:
    """A working folder with data/Tiny, sweep.toml and a profile of one thread: networks are too small for two."""
    shutil.copytree(tiny_dataset, tmp_path / "data" / "Tiny")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "local.toml").write_text("[local]\nslots = 2\nthreads = 1\npack_workers = 1\n")
    return tmp_path


def one_line(process: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, process.stderr
    return lines[0]


def weights(run: Path) -> dict[str, Any]:
    from hpcseg.training.model import TrainedModel

    return TrainedModel.load(run).weights


def train_runs(study: Path) -> dict[str, Path]:
    return {path.name: path for path in (study / "runs" / "train").iterdir()}


def test_help_is_fast(cli: Cli) -> None:
    def seconds(call: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    command = [sys.executable, "-c", "import typer, rich.table"]  # what any such command line needs; 0.12 s
    least = min(seconds(lambda: subprocess.run(command, check=True)) for _ in range(3))
    found = min(seconds(lambda: cli("--help")) for _ in range(3))
    assert found <= max(0.4, 3.3 * least)  # of the processor's time, which is slower where its other threads are busy


def test_light_commands_do_not_import_torch() -> None:
    code = (
        "import sys, hpcseg.cli, hpcseg.submit.apply, hpcseg.runs.status, hpcseg.results.export, "
        "hpcseg.volumes.packing, hpcseg.screens.keys; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_whole_study_and_again_and_one_run_deleted(
    study: Path, cli: Cli, here: Cli, storm: Callable[[int, int], int]
) -> None:
    strategies = ["transfer", "baseline", "multitask"][: storm(1, 3)]  # the others are swept below
    plan = json.loads(here("sweep", "sweep.toml", "--plan", "--json").stdout)
    assert plan["total_training_runs"] == 6
    assert not (study / "runs").exists()

    sweep = ("sweep", "sweep.toml", "--on", "local", "--json", "--set", "fold=0", "--set", f"strategy={strategies}")
    first = json.loads(cli(*sweep).stdout)
    assert len(first["submitted"]) == 1 + 2 + len(strategies)  # a pack, an autoencoder of each level, a run of each
    assert {line["state"] for line in json.loads(here("status", "--json").stdout)} == {"done"}

    assert json.loads(here(*sweep).stdout)["submitted"] == []

    runs = train_runs(study)
    victim = next(name for name in runs if name.startswith("transfer"))
    before = weights(runs[victim])
    shutil.rmtree(runs[victim])
    (line,) = here(*(word for word in sweep if word != "--json")).stdout.splitlines()[-1:]
    assert f"all {len(first['submitted'])} stages are done, 1 of them now; see hpcseg collect sweep --runs " in line
    after = weights(runs[victim])
    assert all(np.array_equal(before[key], after[key]) for key in before)

    collected = json.loads(cli("collect", "--json").stdout)
    assert collected["missing"] == []
    assert all(Path(study / path).stat().st_size for path in collected["files"])
    assert any(path.endswith(".png") for path in collected["files"])

    mask = cli("segment", runs[victim], "data/Tiny/imagesTs/case_007.nii.gz", "--to", "masks").stdout.strip()
    assert nib.nifti1.load(study / mask).shape == nib.nifti1.load(study / "data/Tiny/imagesTs/case_007.nii.gz").shape


def test_killed_run_resumes_bit_identical(study: Path, here: Cli, storm: Callable[[int, int], int]) -> None:
    if not storm(0, 1):
        pytest.skip("with pytest --all; tests/test_faults.py kills pools and jobs always")
    narrow = ("--set", "strategy=multitask", "--set", "fold=0", "--set", "training.epochs=20")
    here("train", "sweep.toml", *narrow, "--threads", "1")
    (run,) = train_runs(study).values()
    undisturbed = weights(run)
    history = (run / "history.jsonl").read_text()
    shutil.rmtree(run)

    sweep = start(("sweep", "sweep.toml", "--on", "local", *narrow), study)
    try:
        wait_for((run / "checkpoint.pt").exists)
        os.kill(json.loads((run / "heartbeat.json").read_text())["pid"], signal.SIGKILL)
        _, err = sweep.communicate(timeout=PATIENCE_S)
    finally:
        sweep.kill()
    assert sweep.returncode == 1
    assert "Traceback" not in err
    assert not (run / "result.json").exists()
    assert (run / "checkpoint.pt").exists()

    here("sweep", "sweep.toml", "--on", "local", *narrow)
    resumed = weights(run)
    assert all(np.array_equal(undisturbed[key], resumed[key]) for key in undisturbed)
    assert (run / "history.jsonl").read_text() == history


def test_train_runs_one_run_in_the_foreground_and_a_staged_sweep_ends_with_the_same_weights(
    study: Path, cli: Cli, here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_DISK", str(study / "node"))  # of the job: it alone expands the name
    narrow = ("sweep.toml", "--set", "strategy=baseline", "--set", "fold=0")
    said = cli("train", *narrow, "--threads", "1").stdout
    assert "validation: DSC" in said
    assert "test: DSC" in said
    assert "6 training runs" in one_line(here("train", "sweep.toml", code=2))
    (run,) = train_runs(study).values()
    plain = weights(run)
    used = []
    for command in (("sweep", *narrow, "--on", "local"), ("train", *narrow)):
        submitted = (run / "job.json").read_bytes()
        shutil.rmtree(run)
        run.mkdir()
        (run / "job.json").write_bytes(submitted)  # keeps the number of threads
        here(*command, "--stage", "$NODE_DISK/stores")
        staged = weights(run)
        assert all(np.array_equal(plain[key], staged[key]) for key in plain)
        assert json.loads((run / "job.json").read_text())["reading"]["stage"] == "$NODE_DISK/stores"
        used += [Path(line["path"]) for line in json.loads((run / "training.json").read_text())["reading"]]
    assert used[0] == used[1]
    assert used[0].parent.parent == study / "node" / "stores"
    assert [path for path in used[0].parent.iterdir() if path.suffix == ".h5"] == used[:1]
    report = json.loads(here("inspect", run, "--json").stdout)
    assert report["reading"][0]["path"] == str(used[0])


def test_train_takes_one_grid_of_two_that_no_key_of_set_tells_apart(study: Path, here: Cli) -> None:
    second = '[[grid]]\nname = "short"\nlabelled = [2]\nfold = [0, 1]\ntraining.epochs = 1\n'
    (study / "sweep.toml").write_text(SWEEP.replace('"baseline", "transfer", "multitask"', '"baseline"') + second)
    assert "2 training runs" in one_line(here("train", "sweep.toml", "--set", "fold=0", code=2))
    here("train", "sweep.toml", "--set", "fold=0", "--grid", "short", "--threads", "1")
    (run,) = train_runs(study).values()
    assert json.loads((run / "training.json").read_text())["steps"] == 4


def test_rehearse_proves_that_interruptions_change_nothing_and_leaves_nothing(study: Path, cli: Cli, here: Cli) -> None:
    here("train", "sweep.toml", "--set", "strategy=transfer", "--set", "fold=0", "--threads", "1")
    before = {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("*")}
    (run,) = train_runs(study)
    said = cli("rehearse", run, "--interruptions", "2", "--threads", "1").stdout
    assert "identical after 12 steps" in said
    assert sum(said.count(name) for name in ("SIGKILL", "SIGTERM", "SIGUSR2")) == 2
    assert {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("*") if path != study / "runs"} == before
    level = next((study / "runs" / "pretrain").iterdir())
    found = json.loads(here("rehearse", level, "--interruptions", "1", "--json").stdout)
    assert found["difference"] is None and found["steps"] == 8
    (pack,) = (study / "runs" / "pack").iterdir()
    assert "only runs that train" in one_line(here("rehearse", pack, code=2))
    assert "matches 'absent'" in one_line(here("rehearse", "absent", code=2))


def test_misspelt_key_names_file_line_and_nearest_key(study: Path, here: Cli) -> None:
    path = study / "sweep.toml"
    path.write_text(SWEEP.replace("labelled", "labeled"))
    line = SWEEP.splitlines().index("labelled = [2]") + 1
    message = one_line(here("sweep", "sweep.toml", code=2))
    assert f"sweep.toml:{line}" in message
    assert "'labelled'" in message
    assert not (study / "runs").exists()


def spoil_missing_label(dataset: Path) -> str:
    (dataset / "labelsTr" / "case_003.nii.gz").unlink()
    return "case_003"


def spoil_grid(dataset: Path) -> str:
    path = dataset / "labelsTr" / "case_003.nii.gz"
    label = nib.nifti1.load(path)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), path)
    return "case_003"


def spoil_truncated(dataset: Path) -> str:
    path = dataset / "imagesTr" / "case_003.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    return "case_003"


def spoil_4d(dataset: Path) -> str:
    path = dataset / "imagesTr" / "case_003.nii.gz"
    image = nib.nifti1.load(path)
    nib.save(nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, axis=-1), image.affine), path)
    return "case_003"


def spoil_foreground(dataset: Path) -> str:
    path = dataset / "labelsTr" / "case_003.nii.gz"
    label = nib.nifti1.load(path)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    return "case_003"


def spoil_nan(dataset: Path) -> str:
    path = dataset / "imagesTr" / "case_003.nii.gz"
    image = nib.nifti1.load(path)
    values = np.asarray(image.dataobj).astype(np.float32)
    values[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)
    return "case_003"


SPOILERS = [spoil_missing_label, spoil_grid, spoil_truncated, spoil_4d, spoil_foreground, spoil_nan]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("command", ["pack", "sweep", "train"])
def test_bad_input_is_one_line_with_the_file_and_leaves_nothing_half_written(
    study: Path, cli: Cli, here: Cli, spoil: Callable[[Path], str], command: str
) -> None:
    culprit = spoil(study / "data" / "Tiny")
    arguments = {
        "pack": ("pack", "data/Tiny", "--to", "store.h5", "--foreground", "1,2"),
        "sweep": ("sweep", "sweep.toml", "--on", "local", "--set", "strategy=baseline"),
        "train": ("train", "sweep.toml", "--set", "strategy=baseline", "--set", "fold=0"),
    }[command]
    run = cli if spoil is spoil_truncated else here
    assert culprit in one_line(run(*arguments, code=2))
    assert not list(study.rglob("*.h5*"))


@pytest.mark.parametrize("spoil", SPOILERS)
def test_inspect_lists_what_is_wrong(study: Path, cli: Cli, here: Cli, spoil: Callable[[Path], str]) -> None:
    culprit = spoil(study / "data" / "Tiny")
    run = cli if spoil is spoil_truncated else here
    report = json.loads(run("inspect", "data/Tiny", "--json", code=1).stdout)
    assert any(culprit in problem for problem in report["problems"])


def test_pack_and_inspect_a_store(study: Path, cli: Cli, here: Cli) -> None:
    cli("pack", "data/Tiny", "--to", "store.h5", "--foreground", "1,2", "--spacing", "4")
    report = json.loads(here("inspect", "store.h5", "--json").stdout)
    assert report["kind"] == "store"
    assert report["problems"] == []
    assert "exists" in one_line(here("pack", "data/Tiny", "--to", "store.h5", code=2))
    content = bytearray((study / "store.h5").read_bytes())
    content[len(content) // 2] ^= 255
    (study / "store.h5").write_bytes(content)
    assert json.loads(here("inspect", "store.h5", "--json", code=1).stdout)["problems"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sweep", "absent.toml"), "absent.toml"),
        (("sweep", "sweep.toml", "--data", "nowhere"), "nowhere"),
        (("sweep", "sweep.toml", "--set", "labelled"), "key=value"),
        (("sweep", "sweep.toml", "--set", "labelled=99"), "99"),
        (("sweep", "sweep.toml", "--set", "data.foreground=[7]"), "7"),
        (("status",), "no sweep was applied here"),
        (("status", "absent"), "absent"),
        (("collect", "absent"), "no sweep"),
        (("logs", "absent"), "absent"),
        (("keys", "learning_rte"), "near: training.learning_rate"),
        (("pack", "data/Tiny", "--to", "s.h5", "--spacing", "abc"), "spacing"),
        (("pack", "data", "--to", "s.h5"), "dataset.json"),
        (("segment", "absent", "data/Tiny/imagesTs/case_007.nii.gz", "--to", "masks"), "absent"),
    ],
)
def test_wrong_arguments_are_one_line(study: Path, here: Cli, arguments: tuple[str, ...], says: str) -> None:
    assert says in one_line(here(*arguments, code=2))
    assert not (study / "runs" / "train").exists()
