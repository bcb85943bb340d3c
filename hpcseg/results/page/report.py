"""A sweep as one HTML page that needs nothing else: no network, no other file, and no script to be read.

The page forbids itself to load anything (its Content-Security-Policy); what it shows is inside.
"""

from __future__ import annotations

import base64
import hashlib
import html
import platform
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcseg.errors import BadInput
from hpcseg.files import write_all
from hpcseg.inference.metrics import DSC
from hpcseg.paths import sweep_folder
from hpcseg.results.collection import Collection
from hpcseg.results.export import make_tables
from hpcseg.results.figures.style import DPI
from hpcseg.results.page import sheets
from hpcseg.results.page.circumstances import environments, read_data, settings
from hpcseg.results.page.ledger import (
    Cost,
    Entry,
    add_costs,
    axes_of,
    clock,
    grouped,
    lasted,
    read_ledger,
    sets_of,
)
from hpcseg.results.tables import rendering
from hpcseg.results.tables.axes import label
from hpcseg.results.tables.machine_readable import to_lines
from hpcseg.results.tables.published import datasets_of
from hpcseg.results.tables.tables import Table, improved_in_all
from hpcseg.runs.applied import read_sweep_record
from hpcseg.training.strategy import strategies
from hpcseg.version import __version__
from hpcseg.volumes.datasets import Progress

if TYPE_CHECKING:
    from jinja2 import Environment

MARKER = "<!-- a report of hpcseg -->"
HEAD = 4096  # characters in which a report says what it is
SCREEN_DPI = 120  # CSS pixels per printed inch of a figure: a little larger than in print
FEW = 60  # rows that are shown unasked; more stand folded
MANY = 300  # runs that are listed of a state in which they wait for attention
LISTED = 500  # runs that have a row each; of more only those that did not simply come to their result, and groups
PAPER_DATA = "Task03_Liver"  # on which the paper's hours were measured


@dataclass(frozen=True)
class Picture:
    """A figure in the page; `uri` is "" and `why_not` says why where it could not be drawn."""

    name: str
    title: str
    alt: str
    uri: str = ""
    size: tuple[int, int] = (0, 0)  # CSS pixels: width, height
    why_not: str = ""


def write_report(
    collection: Collection,
    path: Path,
    *,
    tables: Sequence[Table] | None = None,
    force: bool = False,
    note: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> Path:
    """Write the page of a sweep to `path`, atomically, and where it does not list every run, NAME-runs.csv beside it.

    Args:
        path: a file, or a folder in which the page is called report.html.
        tables: to show; by default those of the sweep (`export.make_tables`).
        force: replace whatever is there; otherwise only an earlier report of the same sweep.
        note: called with one line for each figure that cannot be drawn yet.
        progress: called before each figure.

    Raises:
        BadInput: another file is there; or a table or figure names an axis or grid that the sweep does not have.
    """
    path = path / "report.html" if path.is_dir() else path
    if not force:
        refuse_foreign(path, collection.sweep)
    entries, rows = read_ledger(collection), path.with_name(f"{path.stem}-runs.csv")
    folded = len(entries) > LISTED
    if folded and rows.exists() and not path.exists() and not force:
        raise BadInput(f"{rows}: is in the way of the report's own; name another file, or replace it with --force")
    page = render_report(
        collection, tables=tables, note=note, progress=progress, entries=entries, rows=rows.name * folded
    )
    write_all([*([(rows, runs_csv(entries))] if folded else []), (path, page)])
    return path


def refuse_foreign(path: Path, sweep: str) -> None:
    """Refuse to replace what is no report of `sweep`.

    Raises:
        BadInput: such a file is there.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(HEAD)
    if MARKER not in head:
        raise BadInput(f"{path}: exists and is no report of hpcseg; name another file, or replace it with --force")
    if f'<meta name="hpcseg-sweep" content="{html.escape(sweep)}">' not in head:
        raise BadInput(f"{path}: is the report of another sweep; name another file, or replace it with --force")


def render_report(
    collection: Collection,
    *,
    tables: Sequence[Table] | None = None,
    note: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    entries: Sequence[Entry] | None = None,
    rows: str = "",
) -> str:
    """The page as HTML.

    Args:
        tables, note, progress: as of `write_report`.
        entries: the runs, where they were read already.
        rows: a file beside the page that has all of them.

    Raises:
        BadInput: as `write_report`.
    """
    record = read_sweep_record(collection.root, collection.sweep)
    tables = make_tables(collection) if tables is None else tables
    entries = read_ledger(collection) if entries is None else entries
    stale = {run.id: run.stale for run in collection.runs if run.stale}
    folded = len(entries) > LISTED
    own = [entry for entry in entries if not folded or not entry.done or entry.id in stale or len(entry.attempts) > 1]
    keys = settings([run.config for run in collection.runs])
    pages = _environment()
    script = pages.get_template("report.js").render()
    return pages.get_template("report.html.j2").render(
        marker=MARKER,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        collection=collection,
        title=record.get("title") or collection.sweep,
        asked=_asked(collection.root, collection.sweep, record),
        tables=tables,
        improved=improved_in_all(tables, least=1),
        stale=stale,
        pictures=_pictures(collection, note, progress),
        entries=entries,
        groups=(groups := grouped(entries, LISTED) if folded else []),
        grouped_by={axis for group in groups for axis in group.axes},
        listed=own[:LISTED],
        with_row={entry.id for entry in own[:LISTED]},
        rows=rows,
        axes=axes_of(entries),
        sets=sets_of(entries),
        open=[_waiting(state, entries) for state in dict.fromkeys(e.state for e in entries if not e.done)],
        states=Counter(entry.state for entry in entries),
        costs=(costs := add_costs(entries)),
        used=sum(cost.gpu_hours for cost in costs),
        lost=sum(cost.gpu_hours_lost for cost in costs),
        hours=sum(cost.hours for cost in costs),
        paper_hours=_paper_hours(collection, costs),
        interruptions=_interruptions(entries),
        data=read_data(collection),
        varying=[key for key in keys if key.varies],
        changed=[key for key in keys if key.changed and not key.varies],
        keys=keys,
        environments=environments(collection),
        made={"at": clock(time.time()), "by": f"hpcseg {__version__}", "on": platform.node()},
        few=FEW,
        measure=DSC.label,
        dash=rendering.DASH,
        stale_mark=rendering.STALE,
    )


def _pictures(collection: Collection, note: Callable[[str], None], progress: Progress | None) -> list[Picture]:
    """Every figure of the sweep, drawn as `collect` draws it."""
    from hpcseg.results.figures.figures import draw_figures

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for drawing in draw_figures(collection, Path(folder), progress, ["png"]):
            name = drawing.definition.name
            if drawing.files:
                png = drawing.files[0].read_bytes()
                found.append(Picture(name, drawing.title, drawing.shows, sheets.data_uri(png, "image/png"), _size(png)))
            else:
                found.append(Picture(name, drawing.title, "", why_not=drawing.why_not))
                note(drawing.remark)
    return found


def _size(png: bytes) -> tuple[int, int]:
    """Width and height at which a figure's PNG is shown."""
    width, height = struct.unpack(">II", png[16:24])
    return round(width * SCREEN_DPI / DPI), round(height * SCREEN_DPI / DPI)


def _asked(root: Path, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep file as it was applied, and what was set on the command line."""
    file = Path(str(record.get("file", "")))
    copy = sweep_folder(root, name) / file.name  # a link could show any file
    there = file.name and copy.is_file() and not copy.is_symlink()
    text = copy.read_text(encoding="utf-8", errors="replace") if there else ""
    given = [*(record.get("overrides") or ()), *(f"--grid {name}" for name in record.get("grids") or ())]
    return {"file": file.name, "text": text, "overrides": given}


def runs_csv(entries: Sequence[Entry]) -> str:
    """One line per run, with all that the page's rows have."""
    axes, sets = axes_of(entries), sets_of(entries)
    end = ["epochs", "best_epoch", "hours", "gpu_hours", "gpu_hours_lost", "ends", "where", "finished"]
    head = ["run", "stage", "state", "why", *axes, *(f"{DSC.key}_{name}" for name in sets), "attempts", *end]
    lines = (
        [entry.id, entry.stage, entry.state, entry.why]
        + [label(entry.axes[axis]) if axis in entry.axes else "" for axis in axes]
        + [entry.dsc.get(name) for name in sets]
        + [len(entry.attempts), *(getattr(entry, key) for key in end)]
        for entry in entries
    )
    return to_lines(head, lines)


def _waiting(state: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """The runs in one state, the first ones in full."""
    found = [entry for entry in entries if entry.state == state]
    return {"state": state, "entries": found[:MANY], "more": max(0, len(found) - MANY), "count": len(found)}


def _interruptions(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Attempts that ended otherwise than with a result, by cause: how many, GPU hours lost, and the attempts."""
    found: dict[str, list[tuple[Entry, Any]]] = {}
    for entry in entries:
        for attempt in entry.attempts:
            if attempt.cause not in {None, "done"}:
                found.setdefault(str(attempt.cause), []).append((entry, attempt))
    return [
        {
            "cause": cause,
            "count": len(pairs),
            "lost": sum(attempt.gpus * attempt.lost_s for _, attempt in pairs) / 3600,
            "attempts": pairs[:MANY],
            "more": max(0, len(pairs) - MANY),
        }
        for cause, pairs in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _paper_hours(collection: Collection, costs: Sequence[Cost]) -> dict[str, float]:
    """The paper's hours by strategy, where the sweep trains on its volumes and on GPUs."""
    if datasets_of(collection) != {PAPER_DATA} or not any(cost.gpu_hours for cost in costs):
        return {}
    return {name: one.paper_hours for name, one in strategies().items() if one.paper_hours is not None}


def _heading(axis: str) -> str:
    """The name of an axis above a column: n stays n."""
    return axis[:1].upper() + axis[1:] if len(axis) > 1 else axis


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("hpcseg.results.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"lasted": lasted, "clock": clock, "axis": label, "heading": _heading}
    formats = (rendering.format_cell, rendering.format_contrast, rendering.format_p, rendering.format_beside)
    texts = (*formats, rendering.format_replicates, rendering.against, rendering.remarks, sheets.title_of_single_runs)
    marks = (sheets.best_columns, sheets.colour_of, sheets.direction_of, sheets.downloads_of)
    pages.globals |= {one.__name__: one for one in (*texts, *marks)}
    return pages
