"""What is known of each epoch: a line of `history.jsonl`, and the same in words for the log."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcseg.files import leave_out, write_text
from hpcseg.paths import HISTORY_FILE
from hpcseg.seals import append_line, json_lines, line_of
from hpcseg.text import duration


def epoch_record(
    epoch: int, means: Mapping[str, float], validation: float | None, rate: float, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """What `history.jsonl` has of an epoch, which counts from 0.

    Args:
        epoch: from 0; the record counts from 1.
        means: of the losses of its steps; the first is the one that counts.
        validation: the loss on validation minibatches.
        rate: the learning rate of the next epoch.
        measured: what else the task measured.
    """
    losses = {"training_loss": next(iter(means.values())), "validation_loss": validation, "learning_rate": rate}
    return {"epoch": epoch + 1, **losses, "losses": dict(means), **measured}


def append_record(run: Path, record: Mapping[str, Any]) -> None:
    """Add an epoch's record; whoever saves a checkpoint syncs it, as without one it will be cut off."""
    append_line(run / HISTORY_FILE, record, synced=False)


def cut_history(run: Path, epochs: int) -> None:
    """Leave the records of the first `epochs`: those that a checkpoint knows."""
    path = run / HISTORY_FILE
    if path.exists():
        lines = [line for line in json_lines(path) if isinstance(line.get("epoch"), int) and line["epoch"] <= epochs]
        write_text(path, b"".join(line_of(line) for line in lines).decode())


def read_history(path: Path) -> list[dict[str, Any]]:
    """Lines of history.jsonl, [] where there is none; one that is damaged is left out with a note."""
    lines = json_lines(path)
    kinds = {"epoch": int, **dict.fromkeys(("validation_dice", "validation_dsc"), list | None)} | dict.fromkeys(
        ("training_loss", "validation_loss"), int | float | None
    )
    sound = [line for line in lines if all(isinstance(line.get(key), kind) for key, kind in kinds.items())]
    if len(sound) < len(lines):
        leave_out(f"{path}: a line is no epoch")
    return [*{line["epoch"]: line for line in sound}.values()]  # one that stands twice counts once


def class_mean(record: Mapping[str, Any], key: str) -> float | None:
    """Mean of the foreground classes that have a value, of "validation_dice" (of minibatches) or "validation_dsc" (of
    whole scans); None where none was measured."""
    known = [value for value in record.get(key) or () if value is not None]
    return statistics.fmean(known) if known else None


def epoch_line(
    record: Mapping[str, Any], epochs: int, seconds: float | None = None, left_s: float | None = None
) -> str:
    """An epoch in words, for the log.

    Args:
        record: see `epoch_record`.
        epochs: of the whole training.
        seconds: that the epoch took, its validation included; None: not known.
        left_s: seconds until the training ends; None: not known.

    >>> record = epoch_record(4, {"segmentation": 0.25}, 0.3, 1e-3, {"validation_dice": [0.8, None, 0.5]})
    >>> epoch_line(record, 100, 1.25, 240.0)
    'epoch 5 of 100: segmentation 0.2500, validation 0.3000, Dice 0.800 – 0.500, rate 0.001, 1.2 s, 4 min left'
    """
    parts = [f"{name} {value:.4f}" for name, value in record["losses"].items()]
    if record["validation_loss"] is not None:
        parts.append(f"validation {record['validation_loss']:.4f}")
    for name, key in {"Dice": "validation_dice", "DSC of whole scans": "validation_dsc"}.items():
        values = ["–" if value is None else f"{value:.3f}" for value in record.get(key) or ()]
        parts += [f"{name} {' '.join(values)}"] if values else []
    parts.append(f"rate {record['learning_rate']:.3g}")
    parts += [f"{seconds:.1f} s"] if seconds is not None else []
    parts += [f"{duration(left_s)} left"] if left_s is not None else []
    return f"epoch {record['epoch']} of {epochs}: {', '.join(parts)}"
