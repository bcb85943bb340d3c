"""What may be tabulated of result.json: each measure's name in print, its unit, and which way is better. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from hpcseg.errors import BadInput


@dataclass(frozen=True)
class Measure:
    """A key of result.json.

    Attributes:
        better: "zero": the smaller in size, whichever sign; "": neither way.
        decimals: as printed; three for shares, as the paper.
    """

    key: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower", "zero", ""] = "higher"
    decimals: int = 3

    @property
    def name(self) -> str:
        """Label with unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def compared(self) -> str:
        """What contrasts are differences of."""
        return f"size of the {self.label}" if self.better == "zero" else self.label

    def comparable(self, value: float) -> float:
        """A value as contrasts take it."""
        return abs(value) if self.better == "zero" else value

    def improves(self, difference: float) -> bool:
        """Whether a difference from the baseline is an improvement; rounding errors are none."""
        return difference > 1e-9 if self.better == "higher" else bool(self.better) and difference < -1e-9

    @property
    def direction(self) -> str:
        """How to read a difference's sign."""
        words = {"higher": "more is better", "lower": "less is better", "zero": "nearer to zero is better"}
        return words.get(self.better, "neither way is better")


MEASURES = {
    one.key: one
    for one in (
        Measure("dsc", "DSC"),
        Measure("nsd", "NSD"),
        Measure("hd95", "HD95", "mm", "lower", 2),
        Measure("hd", "maximum HD", "mm", "lower", 1),
        Measure("asd", "ASD", "mm", "lower", 2),
        Measure("volume_difference", "volume difference", "%", "zero", 1),
        Measure("volume_ml", "volume", "ml", "", 1),
        Measure("reference_ml", "reference volume", "ml", "", 1),
    )
}


def find_measure(key: str, asked_by: str) -> Measure:
    """The measure of a table's `metric`.

    Raises:
        BadInput: there is none of this name.
    """
    if key in MEASURES:
        return MEASURES[key]
    near = difflib.get_close_matches(key, MEASURES, n=1) or MEASURES
    raise BadInput(f"{asked_by} asks for metric {key!r}; did you mean {' or '.join(map(repr, near))}?")
