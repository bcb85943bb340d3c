"""Whether two runs ended the same, to the bit, and if not, where they differ first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpcseg.paths import HISTORY_FILE
from hpcseg.training.checkpoint import load_checkpoint


def compare(one: Path, other: Path) -> str | None:
    """What differs first between two trained runs that still have their checkpoints; None if nothing does."""
    return first_difference(_history(one), _history(other), "history") or first_difference(
        _state(one), _state(other), "checkpoint"
    )


def first_difference(one: Any, other: Any, where: str) -> str | None:
    """Name of the first value in which two nested states differ by a bit; None if they do not.

    `where` is their common name; the parts of it are joined by dots.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(one) != list(other):
            return f"{where}: other keys"
        pairs = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} entries"
        pairs = [(f"{where}.{index}", *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        return _tensor_difference(one, other, where)
    else:
        return None if repr(one) == repr(other) else f"{where}: {one!r} and {other!r}"
    return next((found for name, a, b in pairs if (found := first_difference(a, b, name)) is not None), None)


def _tensor_difference(one: Tensor, other: Tensor, where: str) -> str | None:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{where}: {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
    if torch.equal(*(tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other))):
        return None
    gap = (one.double() - other.double()).abs()
    return f"{where}: {int((gap != 0).sum())} of {gap.numel()} values, by at most {float(gap.max()):.3g}"


def _history(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / HISTORY_FILE).read_text(encoding="utf-8").splitlines()]


def _state(run: Path) -> dict[str, Any] | None:
    state = load_checkpoint(run)
    if state is not None:
        state["progress"] = {name: value for name, value in state["progress"].items() if not name.endswith("seconds")}
    return state
