"""Whether mixed precision segments as well as float32: the demonstration's network on phantoms, some seeds of each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from hpcseg.config import RunConfig
from hpcseg.files import read_json, write_json
from hpcseg.host import usable_cores
from hpcseg.phantoms.dataset import write_phantoms
from hpcseg.spec import CaseRef, PackSpec, SourceRef, Spacing, TrainSpec
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack
from tests.gpu.kit import Kit
from tests.gpu.outcomes import THREADS

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("float32", "bfloat16", "float16")
LABELLED, VALIDATION = 4, 2  # cases; the test set is what neither trains nor validates
CLASSES = ((1, 2),)
SETTINGS: dict[str, Any] = {  # sweeps/precision.toml
    "preprocessing": {"spacing": 5.0, "intensity": "window"},
    "patches": {"size": 24},
    "network": {"levels": 3, "kernel": 3, "maps": 8},
    "training": {
        "validation_steps": 4,
        "batch": 4,
        "learning_rate": 3e-3,
        "ema_training": 0.8,
        "ema_validation": 0.5,
        "plateau_drop": 0.02,
        "plateau_epochs": 4,
    },
}
TINY: dict[str, Any] = {
    "preprocessing": {"spacing": 15.0, "intensity": "window"},
    "patches": {"size": 12},
    "network": {"levels": 2, "kernel": 3, "maps": 2},
    "training": {"steps": 2, "validation_steps": 1, "batch": 2},
}
FEWEST = 3  # seeds of each precision, of which a spread means something
_POLL_S = 0.2


def measure(kit: Kit) -> None:
    """Train and segment; every precision in a process of its own, seed after seed, until the time is over."""
    folder = kit.folder / "study"
    folder.mkdir()
    data = folder / "data" / "Phantoms"
    tiny = kit.machine.device.type == "cpu"
    training, test = (LABELLED + VALIDATION, 1) if tiny else (12, 4)
    write_phantoms(data, training=training, test=test, size=24 if tiny else 96)
    spec = _pack_spec(open_dataset(data).training, _settings(tiny))
    pack(spec, _made(folder / "pack" / "store.h5"), workers=1 if tiny else min(usable_cores(), training))
    found = _all(kit, folder, data, tiny)
    rows = []
    for precision, scores in found.items():
        if scores:
            spread = stdev(scores) if len(scores) > 1 else 0.0
            kit.figure(f"dsc_{precision}", fmean(scores))
            each = ", ".join(f"{score:.3f}" for score in scores)
            rows.append([precision, f"{fmean(scores):.3f} ± {spread:.3f}", each])
    for precision in PRECISIONS[1:]:
        own, exact = found.get(precision, []), found.get("float32", [])
        if own and min(len(own), len(exact)) < FEWEST:
            kit.found.late.append(
                f"{precision}: {len(own)} seeds, float32: {len(exact)}; {FEWEST} are compared at least"
            )
        elif own:
            kit.figure(f"dsc_{precision}_margin", margin(own, exact))
    kit.table(
        f"DSC of the liver on phantoms, {LABELLED} labelled, baseline (mean ± SD over seeds)",
        ["precision", "DSC", "each seed"],
        rows,
        f"{training + test - LABELLED - VALIDATION} cases that were not trained on, "
        f"{kit.sizes.study_epochs} epochs; network and training as in `sweeps/precision.toml`.",
    )


def margin(own: Sequence[float], exact: Sequence[float]) -> float:
    """How far the mean of `own` lies above the least that chance allows: that of `exact` less two standard deviations.

    Args:
        own, exact: DSC of each seed, of a 16-bit type and of float32.
    """
    return fmean(own) - (fmean(exact) - 2 * stdev(exact))


def _all(kit: Kit, folder: Path, data: Path, tiny: bool) -> dict[str, list[float]]:
    """DSC of each seed by precision; a process of its own for each precision, side by side."""
    begun = {}
    for precision in PRECISIONS[:: 2 if tiny else 1]:
        words = [str(folder), str(data), precision, str(kit.sizes.seeds), str(kit.sizes.study_epochs), str(int(tiny))]
        command = [sys.executable, "-m", "tests.gpu.study", *words]
        begun[precision] = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **THREADS})
        if tiny:
            begun[precision].wait()  # a CPU is the faster for one at a time
    until = time.monotonic() + kit.seconds_left()
    while time.monotonic() < until and any(process.poll() is None for process in begun.values()):
        time.sleep(_POLL_S)
    found: dict[str, list[float]] = {}
    for precision, process in begun.items():
        if process.poll() is None:
            process.kill()
            process.wait()
            kit.say(f"{precision}: out of time; the seeds that were finished count")
        said = folder / f"{precision}.json"
        scores: dict[str, Any] = read_json(said) if said.exists() else {"failed": f"ended with {process.returncode}"}
        if "missing" in scores:
            kit.found.missing.append(f"{precision}: {scores['missing']}")
        elif "failed" in scores and not scores.get("dsc"):
            kit.found.failed.append(f"{precision}: {scores['failed']}")
        found[precision] = scores.get("dsc", [])
    return found


def _one(folder: Path, data: Path, precision: str, seeds: int, epochs: int, tiny: bool) -> None:
    """Train and segment with one precision; writes what it found after every seed."""
    from hpcseg.errors import BadInput
    from hpcseg.inference.segment import Segmenter
    from hpcseg.paths import KERNELS_FILE
    from hpcseg.training.control import Control
    from hpcseg.training.model import TrainedModel
    from hpcseg.training.stages import train
    from hpcseg.volumes.preprocess import merge_labels
    from hpcseg.volumes.scans import read_label

    dataset = open_dataset(data)
    unseen = [*dataset.training[LABELLED + VALIDATION :], *dataset.test]
    scores: list[float] = []
    for seed in range(seeds):
        run = _made(folder / "train" / f"{precision}-{seed}" / "run").parent
        chosen = folder / "train" / f"{precision}-0" / KERNELS_FILE
        if seed and chosen.exists():
            shutil.copy(chosen, run)  # or each seed would measure which kernels are fastest
        try:
            train(run, _train_spec(dataset.training, precision, seed, epochs, tiny), Control(run))
        except BadInput as reason:
            write_json(folder / f"{precision}.json", {"missing": str(reason)})
            return
        segmenter = Segmenter(TrainedModel.load(run))
        each = []
        for case in unseen:
            assert case.label is not None
            found = segmenter.segment(case.image)
            each.append(_dice(found.mask_zyx > 0, merge_labels(read_label(case.label, found.grid), CLASSES) > 0))
        scores.append(fmean(each))
        write_json(folder / f"{precision}.json", {"dsc": scores})


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    both = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / both if both else 1.0


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _settings(tiny: bool) -> dict[str, Any]:
    return TINY if tiny else SETTINGS


def _spacing(settings: dict[str, Any]) -> Spacing:
    edge: float = settings["preprocessing"]["spacing"]
    return edge, edge, edge


def _pack_spec(cases: tuple[CaseRef, ...], settings: dict[str, Any]) -> PackSpec:
    return PackSpec(
        id="study",
        dataset="Phantoms",
        cases=cases,
        spacing_zyx=_spacing(settings),
        classes=CLASSES,
        padding=-1000.0,
        pyramid_clip=(-200.0, 400.0),
    )


def _train_spec(cases: tuple[CaseRef, ...], precision: str, seed: int, epochs: int, tiny: bool) -> TrainSpec:
    settings, names = _settings(tiny), tuple(case.name for case in cases)
    training = {**settings["training"], "precision": precision, "epochs": epochs}
    store = Path("pack/store.h5")
    return TrainSpec(
        id=f"{precision}-{seed}",
        config=RunConfig.model_validate({**settings, "training": training, "seed": seed}),
        labelled=SourceRef(store=store, cases=names[:LABELLED]),
        validation=SourceRef(store=store, cases=names[LABELLED : LABELLED + VALIDATION]),
        spacing_zyx=_spacing(settings),
        classes=CLASSES,
        padding=-1000.0,
        pyramid_clip=(-200.0, 400.0),
        validation_scans=(),
    )


if __name__ == "__main__":
    _one(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "1")
