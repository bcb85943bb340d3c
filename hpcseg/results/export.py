"""A collection on disk: its tables, figures and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.files import json_text, write_all
from hpcseg.host import without_collector
from hpcseg.inference.metrics import DSC, METRICS
from hpcseg.results.collection import MANY, Collection
from hpcseg.results.second_process import Other, answered, ask
from hpcseg.results.tables.latex import to_latex
from hpcseg.results.tables.listing import to_list
from hpcseg.results.tables.machine_readable import to_csv, to_json, to_lines, to_runs_csv, to_summary_csv
from hpcseg.results.tables.published import Publication, datasets_of, set_beside
from hpcseg.results.tables.rendering import to_markdown, to_text
from hpcseg.results.tables.tables import Table, build_table, improved_in_all
from hpcseg.study.tables import RUNS_LIST, SUMMARY, TABLE_ENDINGS, TableDefinition, clashing_file
from hpcseg.text import nearest
from hpcseg.volumes.datasets import Progress

_RENDER: tuple[Callable[[Table], str | Iterator[str]], ...] = (
    to_text,
    to_markdown,
    to_list,
    to_csv,
    to_runs_csv,
    to_summary_csv,
    to_json,
    to_latex,
)
RENDERERS = dict(zip(TABLE_ENDINGS, _RENDER, strict=True))
HALF = (".txt", ".csv")  # what takes half of the time


def make_tables(
    collection: Collection, *, metrics: Sequence[str] = (), beside: Publication | None = None
) -> list[Table]:
    """The tables of a sweep.

    Args:
        metrics: for each a copy of every table, named TABLE-METRIC; empty: the tables as the sweep has them.
        beside: published tables to set beside those of the same name.

    Raises:
        BadInput: a table names an axis, grid, metric or baseline that there is not.
    """
    named = [
        (definition.name, definition if metric in (None, definition.metric) else _of_metric(definition, metric))
        for metric in dict.fromkeys(metrics) or (None,)
        for definition in collection.tables
    ]
    with without_collector(freeze=len(collection.runs) >= MANY):
        tables = [build_table(definition, collection) for _, definition in named]
    if beside is None:
        return tables
    datasets = datasets_of(collection)
    return [set_beside(table, beside, datasets, name) for table, (name, _) in zip(tables, named, strict=True)]


def _of_metric(definition: TableDefinition, metric: str) -> TableDefinition:
    if metric not in METRICS:
        raise BadInput(f"--metric {metric}: there is no such metric{nearest(metric, METRICS)}")
    label = METRICS[metric].label
    title = definition.title.replace(DSC.label, label) if definition.metric == DSC.key else definition.title
    if not title or METRICS[definition.metric].label in title:
        title = f"{label} ({definition.name})"
    return definition.model_copy(update={"metric": metric, "name": f"{definition.name}-{metric}", "title": title})


def write_collection(
    collection: Collection,
    folder: Path,
    *,
    tables: Sequence[Table] | None = None,
    figures: bool = True,
    note: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    other: Other = None,
) -> list[Path]:
    """Write every table (text, Markdown, CSV, JSON, LaTeX) and figure (PNG, PDF) of a sweep, each file atomically.

    `runs.csv` and `collection.json` list the runs, what is missing or stale and which code the results come from.

    Args:
        tables: as `make_tables` made them; None: the sweep's own.
        figures: draw them, too.
        note: called with one line for each figure that cannot be drawn yet.
        progress: called before each figure.
        other: writes some of the tables' files.

    Raises:
        BadInput: two tables have a file of one name, or a table names an axis or grid that the sweep does not have;
            nothing is written then. A figure does; the tables are written then.
    """
    chosen = make_tables(collection) if tables is None else tables
    if file := clashing_file(table.definition.name for table in chosen):
        raise BadInput(f"{folder / file}: two tables have this file; rename a [[table]], or leave out a --metric")
    halved = ask(other, write_rendered, folder, chosen, HALF)
    own = [ending for ending in RENDERERS if not (halved and ending in HALF)]
    with without_collector(freeze=len(collection.runs) >= MANY):
        lists = [
            (folder / RUNS_LIST, _runs(collection)),
            (folder / SUMMARY, json_text(summary(collection, chosen))),
        ]
        write_all([*lists, *_rendered(folder, chosen, own)])
    if halved and not answered(other):
        write_rendered(folder, chosen, HALF)
    paths = [path for path, _ in lists]
    paths += [folder / f"{table.definition.name}{ending}" for table in chosen for ending in RENDERERS]
    if not figures:
        return paths
    from hpcseg.results.figures.figures import draw_figures

    for drawing in draw_figures(collection, folder, progress):
        paths += drawing.files
        if drawing.remark:
            note(drawing.remark)
    return paths


def write_rendered(folder: Path, tables: Sequence[Table], endings: Iterable[str]) -> None:
    """Write the files of tables that have these endings."""
    write_all(_rendered(folder, tables, endings))


def _rendered(folder: Path, tables: Sequence[Table], endings: Iterable[str]) -> list[tuple[Path, str | Iterator[str]]]:
    return [(folder / f"{table.definition.name}{end}", RENDERERS[end](table)) for table in tables for end in endings]


def summary(collection: Collection, tables: Sequence[Table] = ()) -> dict[str, object]:
    """Which sweep this is, how complete it is and what share of all tables' cells improved; JSON-able."""
    improved = improved_in_all(tables)
    return {
        "sweep": collection.sweep,
        "chosen": collection.chosen,
        "applied": collection.applied,
        "runs": len(collection.runs),
        "missing": list(collection.missing),
        "stale": list(collection.stale),
        "problems": list(collection.problems),
        "versions": list(collection.versions),
        "gpu_hours": round(collection.gpu_hours, 3),
        "improved": improved and asdict(improved),
    }


def _runs(collection: Collection) -> str:
    """One line per run and grid."""
    head = ["run", "grid", "axes", "state", "epochs", "best_epoch", "seconds", "gpu_hours", "version", "finished"]
    lines = []
    for run in collection.runs:
        result = run.result
        state = "missing" if result is None else "stale" if run.stale else "finished"
        training = result.training if result else {}
        made = [training.get(key, "") for key in ("epochs", "best_epoch", "seconds")]
        end = [result.gpu_hours, result.code.get("version", ""), result.finished] if result else ["", "", ""]
        for place in run.places:
            axes = " ".join(f"{key}={value}" for key, value in place.axes.items())
            lines.append([run.id, place.grid, axes, state, *made, *end])
    return to_lines(head, lines)
