"""What was found on a GPU, kept in `docs/`: the numbers, and the page that shows them.

docs/benchmarks-gpu.json  {"machine": {...}, "seconds", "parts": {name: what it found}}
docs/benchmarks-gpu.md    the page; made from the numbers alone
docs/benchmarks-gpu/      logs, kernels.json, traces: not kept with hpcseg
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcseg.files import read_json, write_json, write_text
from tests.benchmarks.report import markdown_table as table
from tests.benchmarks.report import shown, verdict
from tests.gpu.experiments import assumed, hours_table
from tests.gpu.figures import FIGURES
from tests.gpu.kit import Found
from tests.gpu.parts import ALL, SPARE, Part

DOCS = Path(__file__).resolve().parents[2] / "docs"
STEM = "benchmarks-gpu"
INTRODUCTION = """\
# Benchmarks on a GPU

Written by `make gpu`; do not edit. What the figures mean, and what they are compared with, is in
[performance.md](performance.md); the numbers are in benchmarks-gpu.json.
"""
NOTHING = """\
**No GPU has run this yet.** `make gpu` on a machine with one (it takes less than ten minutes) writes this page. Until
then nothing is known of hpcseg's speed on GPUs but what it ought to be: the floor in [performance.md](performance.md).
"""


@dataclass(frozen=True)
class Results:
    """The machine, what each part found, and the seconds that all took."""

    machine: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Found] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def figures(self) -> dict[str, float]:
        """Of all parts."""
        return {name: value for found in self.parts.values() for name, value in found.figures.items()}

    @property
    def broken(self) -> list[str]:
        """Figures that are not what they must be."""
        return [one.name for one in FIGURES if verdict(one, self.figures.get(one.name)) == "no"]

    @property
    def failed(self) -> bool:
        """Whether anything went wrong: a bound, a test, a part."""
        return bool(self.broken) or any(one.failed or failed(name, one) for name, one in self.parts.items())


def failed(name: str, found: Found) -> bool:
    """Whether the state of a part is a failure; that there was no time for it is none of what only informs."""
    return found.state not in (("done", "stopped", "not run") if name in SPARE else ("done",))


def beside(docs: Path) -> Path:
    """Folder of what is kept beside the page; there is one from now on."""
    folder = docs / STEM
    folder.mkdir(exist_ok=True)
    return folder


def read_results(docs: Path = DOCS) -> Results:
    """What stands there; nothing if there is nothing."""
    path = docs / f"{STEM}.json"
    if not path.exists():
        return Results()
    plain = read_json(path)
    parts = {name: Found.of_json(found) for name, found in plain["parts"].items()}
    return Results(plain["machine"], parts, plain["seconds"])


def update_results(docs: Path, change: Callable[[Results], Results]) -> Results:
    """Read, change and write the numbers and the page, one process at a time; returns what stands there now."""
    folder = os.open(docs, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        results = change(read_results(docs))
        write_results(results, docs)
    finally:
        os.close(folder)
    return results


def keep(docs: Path, part: Part, found: Found) -> None:
    """Put what a part found on the page."""
    update_results(docs, lambda results: replace(results, parts={**results.parts, part.name: found}))


def write_results(results: Results, docs: Path = DOCS) -> None:
    """Write the numbers and the page."""
    plain: dict[str, Any] = {
        "machine": results.machine,
        "seconds": results.seconds,
        "parts": {name: found.as_json() for name, found in results.parts.items()},
    }
    write_json(docs / f"{STEM}.json", plain)
    write_page(results, docs)


def write_page(results: Results, docs: Path = DOCS) -> None:
    """Write the page alone."""
    write_text(docs / f"{STEM}.md", page(results))


def page(results: Results) -> str:
    """The whole page, as Markdown."""
    news = [_machine(results), _wrong(results)] if results.parts else [NOTHING]
    parts = [INTRODUCTION, *news]
    parts.append(_figures(results))
    parts.append(_experiments(results))
    parts += [_part(part, results.parts.get(part.name)) for part in ALL]
    return "\n".join(part for part in parts if part)


def _machine(results: Results) -> str:
    what = [f"{name} {value}" if name != "gpu" else f"**{value}**" for name, value in results.machine.items()]
    return f"{'; '.join(what)}. All of it took {results.seconds:.0f} s.\n"


def _wrong(results: Results) -> str:
    """What failed and what was not reached, before anything else."""
    lines = [f"- bound missed: `{name}`" for name in results.broken]
    for part in ALL:
        found = results.parts.get(part.name)
        if found is None:
            lines.append(f"- not run: {part.title}")
            continue
        if found.state not in ("done", "failed"):
            lines.append(f"- {part.title}: {found.state} after {found.seconds:.0f} s")
        lines += [f"- failed: {part.title}: {reason}" for reason in found.failed]
        if found.late:
            others = f" and {len(found.late) - 1} more" if len(found.late) > 1 else ""
            lines.append(f"- no time for: {part.title}: {found.late[0]}{others}")
    return "## What failed or was not run\n\n" + "\n".join(lines or ["Nothing."]) + "\n"


def _figures(results: Results) -> str:
    lines = [("figure", "what", "value", "must be", "met")]
    for figure in FIGURES:
        value = results.figures.get(figure.name)
        met = verdict(figure, value).replace("no", "**no**")
        lines.append((f"`{figure.name}`", figure.meaning, shown(figure, value), str(figure.bound or ""), met))
    return "## Figures\n\n" + table(lines)


def _experiments(results: Results) -> str:
    if "validation_step_ms" not in results.figures:  # measured by what needs pydantic, as a configuration does
        return ""
    from hpcseg.config import RunConfig

    hours, config = hours_table(results.figures, RunConfig()), RunConfig()
    head = ["strategy", "one run", "an experiment: five folds", "the paper, GTX 1080 Ti", "faster"]
    return f"## Experiments of the paper\n\n{table([head, *hours])}\n{assumed(config)}\n" if hours else ""


def _part(part: Part, found: Found | None) -> str:
    lines = [f"## {part.title}\n", f"{part.how}\n"]
    if found is not None:
        for one in found.tables:
            lines += [f"**{one.title}**\n", table([one.head, *one.rows])]
            lines += [f"{one.note}\n"] if one.note else []
        remarks = [*found.lines, *(f"not here: {reason}" for reason in found.missing)]
        lines += ["\n".join(f"- {remark}" for remark in remarks) + "\n"] if remarks else []
    return "\n".join(lines)
