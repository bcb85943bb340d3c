"""What was measured, kept in `docs/`: the figures, where they come from, and the page that shows both.

docs/benchmarks.json          {figure: number}
docs/benchmarks-details.json  {benchmark: {"date", "hardware": {...}, "details": {...}}}
docs/benchmarks.md            the page; its end is `notes.md`, written by hand
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.files import read_json, write_json, write_text
from tests.benchmarks.figures import Benchmark, Figure

NOTES = Path(__file__).with_name("notes.md")
DOCS = Path(__file__).resolve().parents[2] / "docs"
INTRODUCTION = """\
# Benchmarks

Written by `make bench`; do not edit (what is written by hand is `tests/benchmarks/notes.md`). `make bench ONLY=patches`
measures one room, benchmark or figure anew, `make bench-peers` the comparisons with other tools; the rest stays as it
was, with its date. The bare numbers are in [benchmarks.json](benchmarks.json). Ratios are measured within one run, both
sides in turn, so that other load on the machine falls on both.
"""


@dataclass(frozen=True)
class Results:
    """All that is known: `figures` by name, and `sources` (date, hardware, details) by benchmark."""

    figures: dict[str, float] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def merged(self, title: str, found: Mapping[str, Any]) -> Results:
        """Return these results with what one benchmark has found in place of what it found before."""
        source = {key: found[key] for key in ("date", "hardware", "details")}
        return Results(self.figures | found["figures"], self.sources | {title: source})

    def of(self, benchmarks: Sequence[Benchmark]) -> Results:
        """Return what belongs to `benchmarks`, in their order."""
        names = [figure.name for one in benchmarks for figure in one.figures]
        return Results(
            {name: self.figures[name] for name in names if name in self.figures},
            {one.title: self.sources[one.title] for one in benchmarks if one.title in self.sources},
        )


def read_results(docs: Path = DOCS) -> Results:
    """Read what was measured before; nothing if there is nothing."""
    figures, sources = docs / "benchmarks.json", docs / "benchmarks-details.json"
    return Results(
        read_json(figures) if figures.exists() else {},
        read_json(sources) if sources.exists() else {},
    )


def write_results(results: Results, benchmarks: Sequence[Benchmark], docs: Path = DOCS) -> None:
    """Write the figures of `benchmarks`, their sources and the page."""
    kept = results.of(benchmarks)
    write_json(docs / "benchmarks.json", kept.figures)
    write_json(docs / "benchmarks-details.json", kept.sources)
    write_text(docs / "benchmarks.md", page(kept, benchmarks, NOTES.read_text(encoding="utf-8")))


def page(results: Results, benchmarks: Sequence[Benchmark], notes: str) -> str:
    """The whole page, as Markdown."""
    parts = [INTRODUCTION, _hardware(results), "## Figures\n\n" + _table(results, benchmarks)]
    parts.append("## How they are measured\n")
    parts += [_how(one, results.sources.get(one.title, {})) for one in benchmarks]
    return "\n".join([*parts, notes.strip() + "\n"])


def verdict(figure: Figure, value: float | None) -> str:
    """Whether a value holds its figure's bound: "yes", "no", or "" where there is nothing to say."""
    if value is None or figure.bound is None:
        return ""
    return "yes" if figure.bound.holds(value) else "no"


def shown(figure: Figure, value: float | None) -> str:
    """A value with its unit."""
    if value is None:
        return "not measured yet"
    number = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{number} {figure.unit}"


def _hardware(results: Results) -> str:
    """One line per machine and set of versions; the figures are named where there are several."""
    machines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for title, source in results.sources.items():
        machines.setdefault(tuple(source["hardware"].items()), []).append(title)
    lines = []
    for machine, titles in machines.items():
        what = dict(machine)
        parts = [what.pop("cpu"), f"{what.pop('cores')} cores usable", f"{what.pop('memory')} memory"]
        parts += [what.pop("gpu")] if "gpu" in what else []
        versions = ", ".join(f"{name} {version}" for name, version in what.items())
        whose = f" ({', '.join(titles)})" if len(machines) > 1 else ""
        lines.append(f"- {', '.join(parts)}; {versions}{whose}")
    return "## Hardware\n\n" + "\n".join(lines or ["Nothing has been measured yet."]) + "\n"


def _table(results: Results, benchmarks: Sequence[Benchmark]) -> str:
    rows = [("figure", "what", "value", "must be", "met", "measured")]
    for one in benchmarks:
        date = results.sources.get(one.title, {}).get("date", "")
        for figure in one.figures:
            value = results.figures.get(figure.name)
            met = verdict(figure, value).replace("no", "**no**")
            bound = str(figure.bound) if figure.bound else ""
            when = "" if value is None else date
            rows.append((f"`{figure.name}`", figure.meaning, shown(figure, value), bound, met, when))
    return markdown_table(rows)


def _how(one: Benchmark, source: Mapping[str, Any]) -> str:
    lines = [f"### {one.title}\n", *(f"- `{figure.name}`: {figure.how}." for figure in one.figures)]
    details = source.get("details", {})
    if details:
        lines += ["", markdown_table([("also seen", source["date"]), *details.items()]).rstrip("\n")]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("---" for _ in range(lines[0].count(" | ") + 1)) + " |")
    return "\n".join(lines) + "\n"
