"""Measure a trained run on its validation and test scans, each on its own grid."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpcseg.errors import BadInput, Interrupted, StoreError
from hpcseg.files import json_text, leave_out, write_text
from hpcseg.inference.metrics import dsc_of_classes, measure
from hpcseg.inference.segment import ReadScan, Segmentation, Segmenter, Work
from hpcseg.paths import (
    EVALUATION_FILE,
    MODEL_FILE,
    PREDICTIONS_FOLDER,
    RANK_EVALUATION_FILE,
    RESULT_FILE,
    TRAINING_FILE,
)
from hpcseg.seals import append_line, json_lines, read_sealed, with_seal
from hpcseg.spec import CaseRef, TrainSpec, runs_root, spec_digest
from hpcseg.training.checkpoint import digest_of, remove_checkpoints
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel
from hpcseg.training.ranks import ALONE, Ranks
from hpcseg.version import code_version
from hpcseg.volumes.digests import require_unchanged, scan_digest
from hpcseg.volumes.preprocess import merge_labels
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.scans import read_grid, read_label, write_mask
from hpcseg.volumes.store import Store

_SETS = ("validation", "test")  # in the order in which they are measured
_Scan = tuple[str, CaseRef]  # and the set that it is in
_Scores = dict[tuple[str, str], list[dict[str, Any]]]


def evaluate(run: Path, spec: TrainSpec, control: Control, ranks: Ranks = ALONE) -> None:
    """Segment the run's scans, measure them, and write `result.json`: from then on the run is done.

    Scans that an interrupted evaluation had finished are not segmented again. Several ranks take the scans in turn.

    Raises:
        Interrupted: a rank was asked to stop; scans that it had begun are measured.
        BadInput: a scan or its label is not sound.
    """
    segmenter = Segmenter(TrainedModel.load(run / MODEL_FILE))
    scans = [(group, scan) for group in _SETS for scan in spec.scans_in(group)]
    measured_as = {"model": digest_of(run / MODEL_FILE), "nsd_mm": spec.config.inference.nsd_mm}
    left = ranks.of_leader(lambda: _left(run, scans, measured_as))
    own = [scans[index] for index in left[ranks.rank :: ranks.world]]
    lines = run / (EVALUATION_FILE if ranks.leads else RANK_EVALUATION_FILE.format(ranks.rank))
    trained = int(_training(run)["steps"])
    finished, rounds, stopped = len(scans) - len(left), 0, False

    def go_on() -> bool:
        nonlocal rounds, stopped
        rounds += 1
        control.beat(phase="evaluating", step=finished, steps=len(scans))
        stopped = ranks.any(control.should_stop())
        return not stopped

    def measured(item: _Scan, found: Segmentation) -> dict[str, Any]:
        group, scan = item
        classes = _measure(run, spec, item, found, threads)
        return {"set": group, "case": scan.name, **measured_as, "classes": classes}

    threads = torch.get_num_threads()
    with _validation_store(run, spec) as store:
        work = Work(partial(_read, segmenter, spec, store), measured, lambda *_: control.pulse(), go_on)
        for line in segmenter.in_turn(own, work):
            append_line(lines, line)
            finished = min(finished + ranks.world, len(scans))
            control.reached(trained + finished)
    if not stopped and rounds * ranks.world < len(left):  # the last scans are those of other ranks
        go_on()
    if stopped:
        raise Interrupted(f"stopped after {finished} of {len(scans)} scans; the same command goes on from there")
    ranks.wait()
    if ranks.leads:
        result = _result(run, spec, _partial(run, measured_as), segmenter)
        control.measured(_mean_dsc(result))
        write_text(run / RESULT_FILE, with_seal(json_text(result | {"model": measured_as["model"]})))
        for path in _partials(run):
            path.unlink(missing_ok=True)
        remove_checkpoints(run)


def measure_scans(model: TrainedModel, spec: TrainSpec, control: Control, ranks: Ranks) -> list[float | None] | None:
    """DSC of each class, mean over the first `training.dsc_cases` validation scans; None where a rank has to stop.

    As in the evaluation at the end, of a network of its own: nothing of the training is touched, nothing is drawn.
    Several ranks take the scans in turn.

    Raises:
        BadInput: a scan or its label is not sound.
    """
    with torch.random.fork_rng(devices=[]):  # a network begins with random weights, whatever it gets then
        segmenter = Segmenter(model)

    def advance(_done: int, _tiles: int) -> None:
        control.pulse()
        control.stop_here()

    def dsc(item: _Scan, found: Segmentation) -> list[float | None]:
        return dsc_of_classes(found.mask_zyx, _reference(spec, item, found), model.class_count)

    sums = torch.zeros((2, model.class_count + 1), dtype=torch.float64)  # DSC and how many; last: ranks that stopped
    scans = spec.validation_scans[: spec.config.training.dsc_cases][ranks.rank :: ranks.world]
    try:
        work = Work(partial(_read, segmenter, spec, None), dsc, advance)
        for of_classes in segmenter.in_turn((("validation", scan) for scan in scans), work):
            for label, value in enumerate(of_classes):
                if value is not None:
                    sums[:, label] += torch.tensor([value, 1.0], dtype=torch.float64)
    except Interrupted:
        sums[1, -1] = 1.0
    found, counts = ranks.add_up(sums.to(ranks.device)).tolist()
    return [a / b if b else None for a, b in zip(found[:-1], counts[:-1], strict=True)] if not counts[-1] else None


@contextmanager
def _validation_store(run: Path, spec: TrainSpec) -> Iterator[Store | None]:
    """The store that validation minibatches were read from; None where it is not there any more."""
    with ExitStack() as stack:
        store = None
        with suppress(StoreError):
            store = stack.enter_context(Store(runs_root(run) / spec.validation.store, verify=True))
        yield store


def _read(segmenter: Segmenter, spec: TrainSpec, store: Store | None, item: _Scan) -> ReadScan:
    """A scan on the network's grid, from the store where that holds the same.

    A damaged store is left out with a warning, `LeftOut`: what was packed can be made again.
    """
    group, scan = item
    if scan.label is None:
        raise BadInput(f"{scan.image}: has no label to be compared with")
    require_unchanged([scan])
    if store is not None and group == "validation" and scan.name in store.names:
        try:
            return _packed(spec, store, scan) or segmenter.read(scan.image)
        except StoreError as error:
            leave_out(str(error))
    return segmenter.read(scan.image)


def _packed(spec: TrainSpec, store: Store, scan: CaseRef) -> ReadScan | None:
    """A scan as the store has it; None where that was made otherwise, or of another scan."""
    case, grid = store.case(scan.name), read_grid(scan.image)
    recipe = store.spacing_zyx, store.pyramid_clip, case.padding if spec.padding != "minimum" else spec.padding
    same = (
        recipe == (spec.spacing_zyx, spec.pyramid_clip, spec.padding)
        and case.attrs["source_digest"] == scan_digest(scan.image)
        and np.array_equal(case.attrs["affine"], grid.affine)
    )
    return ReadScan(scan.image, grid, ScanVolume.packed(case)) if same else None


def _reference(spec: TrainSpec, item: _Scan, found: Segmentation) -> NDArray[np.uint8]:
    """What is true, classes (z, y, x) on a scan's own grid."""
    group, scan = item
    assert scan.label is not None  # as it was read
    return merge_labels(read_label(scan.label, found.grid), spec.classes_in(group), spec.ignored_in(group))


def _measure(run: Path, spec: TrainSpec, item: _Scan, found: Segmentation, threads: int) -> list[dict[str, Any]]:
    """The metrics of each class; masks that are to be kept are."""
    (group, scan), inference = item, spec.config.inference
    reference_zyx = _reference(spec, item, found)
    if inference.save_masks:
        folder = run / PREDICTIONS_FOLDER / group
        for one in (folder.parent, folder):
            one.mkdir(exist_ok=True)  # not the run's own, which may have been renamed
        write_mask(folder / f"{scan.name}.nii.gz", found.mask_zyx, like=scan.image)
    steps, count = found.grid.steps_zyx, max(len(spec.classes), 1)
    found_values = measure(found.mask_zyx, reference_zyx, count, steps, inference.nsd_mm, threads)
    return [{"case": scan.name, "class": label, **values} for label, values in enumerate(found_values, start=1)]


def _left(run: Path, scans: Sequence[tuple[str, CaseRef]], measured_as: Mapping[str, Any]) -> list[int]:
    """Which scans are not measured yet."""
    done = _partial(run, measured_as)
    return [index for index, (group, scan) in enumerate(scans) if (group, scan.name) not in done]


def _partials(run: Path) -> list[Path]:
    return sorted([*run.glob(EVALUATION_FILE), *run.glob(RANK_EVALUATION_FILE.format("*"))])


def _partial(run: Path, measured_as: Mapping[str, Any]) -> _Scores:
    """What interrupted evaluations have measured of this model with this tolerance.

    Earlier versions named no model; yet earlier ones no tolerance, and measured less than is measured now.
    """
    found: _Scores = {}
    for entry in (entry for path in _partials(run) for entry in json_lines(path)):
        same = {"model": measured_as["model"], **entry}.items() >= measured_as.items()
        if same and isinstance(entry.get("case"), str) and isinstance(entry.get("classes"), list):
            found[str(entry.get("set")), entry["case"]] = entry["classes"]
    return found


def _mean_dsc(result: Mapping[str, Any]) -> float | None:
    """Over the test set, or where there is none the validation cases; None where no class is anywhere."""
    scores = result["sets"]["test"] or result["sets"]["validation"]
    known = [score["dsc"] for score in scores if score["dsc"] is not None]
    return statistics.fmean(known) if known else None


def _training(run: Path) -> dict[str, Any]:
    """How the run was trained."""
    found: dict[str, Any] = read_sealed(run / TRAINING_FILE)
    if not all(isinstance(found.get(key), int | float) for key in ("steps", "ranks", "rank_seconds")):
        raise BadInput(f"{run / TRAINING_FILE}: not what a training leaves; delete {run} and run the sweep again")
    return found


def _result(run: Path, spec: TrainSpec, done: _Scores, segmenter: Segmenter) -> dict[str, Any]:
    config, device = spec.config, segmenter.device
    training = _training(run)
    sets = {group: [line for scan in spec.scans_in(group) for line in done[group, scan.name]] for group in _SETS}
    return {
        "id": spec.id,
        "digest": spec_digest(spec),
        "strategy": config.strategy,
        "labelled": config.labelled,
        "fold": config.fold,
        "seed": config.seed,
        "sets": sets,
        "nsd_mm": config.inference.nsd_mm,
        "training": training,
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
            "precision": segmenter.predictors[0].precision.convolutions,
            "threads": torch.get_num_threads(),
            "ranks": training["ranks"],
            "host": platform.node(),
        },
        "code": {**code_version(), "torch": str(torch.__version__), "python": platform.python_version()},
        "gpu_hours": training["rank_seconds"] / 3600 if device.type == "cuda" else 0.0,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
