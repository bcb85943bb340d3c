"""What `hpcseg inspect` found, as tables: pure of any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hpcseg.screens.terminal import table
from hpcseg.text import word

if TYPE_CHECKING:
    from rich.table import Table

MANY_CASES = 40
_PARTS = ("training", "test", "cases", "scan")
_LISTED = {*_PARTS, "datasets", "problems", "warnings", "duplicates", "pictures"}  # in tables or in lines of their own


def report_tables(report: dict[str, Any], *, every: bool = False) -> list[Table | str]:
    """Tables and lines for rich.

    Args:
        report: on a dataset, a store or a run.
        every: one row per case; otherwise, of more than 40 cases, a summary and those that stand out by themselves.
    """
    from rich.markup import escape

    facts = {key: _fact(key, value) for key, value in report.items() if key not in _LISTED}
    found: list[Table | str] = [escape("  ".join(f"{key} {text}" for key, text in facts.items() if text))]
    cases = [(part, case) for part in _PARTS for case in report.get(part, ())]
    rows = [_row(part, case) for part, case in cases]
    if len(rows) > MANY_CASES and not every:
        if measured := _measured([case for _, case in cases]):
            found.append(_summary(measured))
        odd = [row for row, (_, case) in zip(rows, cases, strict=True) if _stands_out(case["remarks"])]
        found.append(f"{len(rows)} cases, of which {len(odd)} stand out; --all lists every case, --json everything")
        rows = sorted(odd, key=lambda row: "problem" not in row["remarks"])[:MANY_CASES]
    if rows:
        found.append(table(rows))
    if datasets := report.get("datasets"):
        found.append(table([{key: str(value) for key, value in one.items()} for one in datasets]))
        found.append(escape(f"every scan of one: hpcseg inspect {word(Path(report['root']) / datasets[0]['folder'])}"))
    return found


def _stands_out(remarks: Sequence[str]) -> bool:
    """Whether something is said about the case itself, and not only that another is like it."""
    return any(not remark.startswith("likely") for remark in remarks)


def _row(part: str, case: dict[str, Any]) -> dict[str, str]:
    row = {"case": case["case"]} | ({} if part == "cases" else {"set": part})
    row["shape"] = _product(case.get("shape_zyx", ()))
    if part != "cases":
        row["mm"] = _product(case.get("spacing_zyx", ()))
        row["axes"], row["type"] = case.get("orientation", ""), case.get("dtype", "")
        row["0.5, 50, 99.5 %"] = ", ".join(map(_number, case.get("intensity_percentiles", {}).values()))
        row["label ml"] = _pairs(case.get("label_ml", {}))
    else:
        voxels = case.get("foreground_voxels", "")
        row["foreground voxels"] = _number(voxels) if case.get("labelled", True) else "no label"
        row["MB"] = f"{case['size_bytes'] / 1e6:.1f}" if "size_bytes" in case else ""
    return row | {"remarks": ", ".join(case["remarks"])}


def _measured(cases: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """What was measured, by its name; nothing where no case can be read."""
    measured: dict[str, list[float]] = {}
    for case in cases:
        for key, name in (("shape_zyx", "voxels along {}"), ("spacing_zyx", "mm along {}")):
            for axis, value in zip("zyx", case.get(key, ()), strict=False):
                measured.setdefault(name.format(axis), []).append(value)
        for key, name in (("intensity_percentiles", "intensity at {} %"), ("label_ml", "ml of label {}")):
            for part, value in case.get(key, {}).items():
                measured.setdefault(name.format(part), []).append(value)
        for key, name in (("foreground_voxels", "foreground voxels"), ("size_bytes", "bytes")):
            if key in case:
                measured.setdefault(name, []).append(case[key])
    return measured


def _summary(measured: dict[str, list[float]]) -> Table:
    """Lowest, median and highest of what was measured."""
    return table(
        [
            {
                "": name,
                "cases": str(len(values)),
                "lowest": _number(min(values)),
                "median": _number(median(values)),
                "highest": _number(max(values)),
            }
            for name, values in measured.items()
        ]
    )


def _fact(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "size_bytes":
        return f"{value / 1e6:.1f} MB"
    if key == "pyramid_clip":
        return " to ".join(map(_number, value))
    if key == "read_speed":
        return f"{_number(value['boxes_per_s'])} boxes/s, {_number(value['mb_per_s'])} MB/s"
    return _pairs(value) if isinstance(value, dict) else _product(value) if isinstance(value, list) else str(value)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {_number(value)}" for name, value in values.items())


def _product(values: Iterable[Any]) -> str:
    return " × ".join(map(_number, values))


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return str(value)
