"""A collection on disk: its tables, figures and runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from hpcseg.files import write_json, write_text
from hpcseg.results.collect import Collection
from hpcseg.results.rendering import to_csv, to_json, to_latex, to_markdown, to_summary_csv, to_text
from hpcseg.results.tables import Table, build_table

RENDERERS: dict[str, Callable[[Table], str]] = {
    ".txt": to_text,
    ".md": to_markdown,
    ".csv": to_csv,
    "-summary.csv": to_summary_csv,
    ".json": to_json,
    ".tex": to_latex,
}


def write_collection(
    collection: Collection, folder: Path, *, report: Callable[[str], None] | None = None
) -> list[Path]:
    """Write every table (text, Markdown, CSV, JSON, LaTeX) and figure (PNG, PDF) of a sweep, each file atomically.

    `runs.csv` and `collection.json` list the runs, what is missing and which code the results come from.

    Args:
        report: called with one line for each figure that cannot be drawn yet.

    Raises:
        BadInput: a table or figure names an axis or grid that the sweep does not have. Nothing is written then.
    """
    from hpcseg.results.figures import draw_figures

    texts = {"runs.csv": _runs(collection)}
    for definition in collection.tables:
        table = build_table(definition, collection)
        texts |= {f"{definition.name}{ending}": render(table) for ending, render in RENDERERS.items()}
    paths = []
    for name, text in texts.items():
        write_text(folder / name, text)
        paths.append(folder / name)
    write_json(folder / "collection.json", summary(collection))
    return [*paths, folder / "collection.json", *draw_figures(collection, collection.root, folder, report=report)]


def summary(collection: Collection) -> dict[str, object]:
    """Which sweep this is and how complete it is; JSON-able."""
    return {
        "sweep": collection.sweep,
        "chosen": collection.chosen,
        "applied": collection.applied,
        "runs": len(collection.runs),
        "missing": list(collection.missing),
        "problems": list(collection.problems),
        "versions": list(collection.versions),
        "gpu_hours": round(collection.gpu_hours, 3),
    }


def _runs(collection: Collection) -> str:
    """One line per run and grid."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["run", "grid", "axes", "state", "epochs", "best_epoch", "seconds", "gpu_hours", "version", "finished"]
    )
    for run in collection.runs:
        result = run.result
        training = result.training if result else {}
        made = [training.get(key, "") for key in ("epochs", "best_epoch", "seconds")]
        end = [result.gpu_hours, result.code.get("version", ""), result.finished] if result else ["", "", ""]
        for place in run.places:
            axes = " ".join(f"{key}={value}" for key, value in place.axes.items())
            writer.writerow([run.id, place.grid, axes, "finished" if result else "missing", *made, *end])
    return stream.getvalue()
