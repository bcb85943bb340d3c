"""Measure a trained run on its validation and test scans, each on its own grid."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hpcseg import __version__
from hpcseg.errors import BadInput
from hpcseg.files import read_json, write_json
from hpcseg.inference.metrics import dice
from hpcseg.inference.segment import Segmenter
from hpcseg.spec import CaseRef, TrainSpec
from hpcseg.training.checkpoint import remove_checkpoints
from hpcseg.training.control import Control
from hpcseg.training.model import MODEL, TrainedModel
from hpcseg.training.stages import TRAINING_FILE
from hpcseg.volumes.preprocess import merge_labels
from hpcseg.volumes.scans import read_label, write_mask

RESULT = "result.json"
_PARTIAL = "evaluation.jsonl"


def evaluate(run: Path, spec: TrainSpec, control: Control) -> None:
    """Segment the run's scans, measure them, and write `result.json`: from then on the run is done.

    Scans that an interrupted evaluation had finished are not segmented again.

    Raises:
        Interrupted: the job was asked to stop.
        BadInput: a scan or its label is not sound.
    """
    segmenter = Segmenter(TrainedModel.load(run / MODEL))
    done = _partial(run)
    scans = [("validation", scan) for scan in spec.validation_scans] + [("test", scan) for scan in spec.test_scans]
    for index, (group, scan) in enumerate(scans):
        if (group, scan.name) in done:
            continue
        control.beat(phase="evaluating", step=index, steps=len(scans))
        control.stop_here(f"stopped after {index} of {len(scans)} scans")
        lines = list(_measure(segmenter, run, spec, group, scan))
        done[group, scan.name] = lines
        with (run / _PARTIAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"set": group, "case": scan.name, "classes": lines}) + "\n")
    write_json(run / RESULT, _result(run, spec, done, segmenter.device))
    (run / _PARTIAL).unlink(missing_ok=True)
    remove_checkpoints(run)


def _measure(segmenter: Segmenter, run: Path, spec: TrainSpec, group: str, scan: CaseRef) -> Iterator[dict[str, Any]]:
    if scan.label is None:
        raise BadInput(f"{scan.image}: has no label to be compared with")
    found = segmenter.segment(scan.image)
    reference_zyx = merge_labels(read_label(scan.label, found.grid), spec.classes_in(group))
    if spec.config.inference.save_masks:
        write_mask(run / "predictions" / group / f"{scan.name}.nii.gz", found.mask_zyx, found.grid, like=scan.image)
    for label in range(1, segmenter.model.class_count + 1):
        yield {"case": scan.name, "class": label, "dsc": dice(found.mask_zyx, reference_zyx, label)}


def _partial(run: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    path = run / _PARTIAL
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line under way when the process was killed
            continue
        found[entry["set"], entry["case"]] = entry["classes"]
    return found


def _result(
    run: Path, spec: TrainSpec, done: dict[tuple[str, str], list[dict[str, Any]]], device: torch.device
) -> dict[str, Any]:
    config = spec.config
    training = read_json(run / TRAINING_FILE)
    sets: dict[str, list[dict[str, Any]]] = {"validation": [], "test": []}
    for (group, _), lines in done.items():
        sets[group] += lines
    return {
        "id": spec.id,
        "strategy": config.strategy,
        "labelled": config.labelled,
        "fold": config.fold,
        "seed": config.seed,
        "sets": sets,
        "training": training,
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
            "threads": torch.get_num_threads(),
            "host": platform.node(),
        },
        "code": {"version": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "gpu_hours": training["seconds"] / 3600 if device.type == "cuda" else 0.0,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
