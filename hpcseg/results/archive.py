"""A sweep's records: all that collect and report need, without volumes, weights and the machine it ran on.

A folder of records is a folder of runs, so `hpcseg collect --runs RECORDS` makes the tables again, to the last digit:

    RECORDS/sweeps/<name>/            sweep.json, with the `seconds` of ancestors; runs.json; the sweep file
    RECORDS/train/<id>/result.json    the result, a score in a row, with the names of the labelled cases

Folders in front of files' names and the host's name are left out. Records are added to, and never deleted.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.files import compact_json, is_file, read_json, write_all
from hpcseg.paths import RESULT_FILE, RUNS_FILE, SWEEP_FILE, sweep_folder
from hpcseg.results.collect import ancestors_seconds
from hpcseg.results.collection import Collection, Run
from hpcseg.runs.applied import described, read_runs, read_sweep_record
from hpcseg.seals import sealed_text, with_seal

_FOLDERS = re.compile(r"""(?<=["'=])(?:/|~/|\$\w+/)(?:[^"'/\n]+/)*(?=[^"'/\n]+)""")


@dataclass(frozen=True)
class Archived:
    """What was written: ids of the runs whose records are new, were there, and differ from those that are there."""

    new: tuple[str, ...]
    same: tuple[str, ...]
    replaced: tuple[str, ...]


def archive(collection: Collection, records: Path, *, force: bool = False) -> Archived:
    """Write the records of a sweep's finished runs, and add the sweep to those that are there.

    A cell that stands in an earlier record of the sweep and not in this one stays; of a cell that stands in both the
    run of this one counts. Stale results are no records.

    Args:
        collection: of a folder of all runs.
        records: the folder.
        force: replace records of the same id and another result.

    Raises:
        BadInput: such records are there, and `force` is not asked for; or `records` is the folder of these runs.
            Nothing is written then.
    """
    if records.resolve() == collection.root.resolve():
        raise BadInput(f"{records}: is the folder of the runs themselves; name another one for their records")
    done = [run for run in collection.runs if run.result is not None and not run.stale]
    there = {run.id: _read(records / "train" / run.id / RESULT_FILE) for run in done}
    texts = {run.id: _result(run, there[run.id]) for run in done}
    other = [run for run, text in texts.items() if there[run] not in (None, text)]
    if other and not force:
        first = records / "train" / other[0] / RESULT_FILE
        raise BadInput(f"{first}: is another result of the same run ({len(other)} of them); --force replaces them")
    write_all(
        [(records / "train" / run / RESULT_FILE, text) for run, text in texts.items() if there[run] != text]
        + _sweep_files(collection, records)
    )
    new = tuple(run for run in texts if there[run] is None)
    return Archived(new, tuple(run for run in texts if there[run] == texts[run]), tuple(other))


def portable(text: str) -> str:
    """JSON or TOML in which quoted paths have lost their folders, where they began at the root or at home.

    >>> portable('{"store": "/home/me/runs/store.h5", "shape": "a/b"}')
    '{"store": "store.h5", "shape": "a/b"}'
    """
    return _FOLDERS.sub("", text)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _result(run: Run, earlier: str | None) -> str:
    """The record of a run: a key in a line, and a score in a line; with a seal of its own where the result has one.

    An earlier record may know the labelled cases where the run's folder no longer does.
    """
    result = read_json(run.folder / RESULT_FILE)
    sealed = result.pop("seal", None) is not None
    result["labelled_cases"] = list(run.labelled_cases) or _labelled_cases(earlier or "{}")
    left_out = {"hardware": {"host"}, "training": {"checkpoint", "reading"}}
    for part, keys in left_out.items():
        result[part] = {key: value for key, value in result.get(part, {}).items() if key not in keys}
    sets = ",\n".join(f"{compact_json(name)}:{_rows(scores)}" for name, scores in result.pop("sets").items())
    lines = [f"{compact_json(key)}:{compact_json(value)}" for key, value in result.items()]
    text = portable("{" + ",\n".join([*lines, f'"sets":{{{sets}}}']) + "}\n")
    return with_seal(text) if sealed else text


def _labelled_cases(record: str) -> list[Any]:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        return list(json.loads(record).get("labelled_cases", ()))
    return []


def _rows(scores: Any) -> str:
    """Scores below the names of their columns, those of a record as they are."""
    if isinstance(scores, Mapping):
        columns, rows = scores["columns"], scores["rows"]
    else:
        columns = list(dict.fromkeys(key for score in scores for key in score))
        rows = [[score.get(key) for key in columns] for score in scores]
    return f'{{"columns":{compact_json(columns)},"rows":[\n' + ",\n".join(map(compact_json, rows)) + "]}"


def _sweep_files(collection: Collection, records: Path) -> list[tuple[Path, str]]:
    """The sweep's own record, as files and their texts; earlier ones of the same name are added to."""
    name = collection.sweep
    folder, own = sweep_folder(records, name), read_sweep_record(collection.root, name)
    runs, needs = read_runs(collection.root, name), dict(own["needs"])
    seconds = ancestors_seconds(collection.root, own)
    if (folder / SWEEP_FILE).exists():
        earlier = read_sweep_record(records, name)
        runs = merged(runs, read_runs(records, name))
        needs, seconds = earlier["needs"] | needs, _known(seconds, earlier.get("seconds", {}))
    source = sweep_folder(collection.root, name) / Path(str(own.get("file", ""))).name
    own |= {"needs": needs, "seconds": seconds, "stages": {"train": [run["id"] for run in runs]}}
    files = [
        (folder / RUNS_FILE, sealed_text(folder / RUNS_FILE, portable(_lines(described(runs))))),
        (folder / SWEEP_FILE, sealed_text(folder / SWEEP_FILE, portable(_lines(own)))),
    ]
    if is_file(source) and not source.is_symlink():
        files.append((folder / source.name, portable(source.read_text(encoding="utf-8"))))
    return files


def _known(seconds: Mapping[str, float | None], earlier: Mapping[str, float | None]) -> dict[str, float | None]:
    """Seconds of ancestors; an earlier record's where this folder does not know them."""
    return {**seconds, **{one: known for one, known in earlier.items() if seconds.get(one) is None}}


def merged(runs: Iterable[Mapping[str, Any]], earlier: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs with their cells; of an earlier record come those cells in whose place the present one has none. Pure.

    A cell's place is that on its axes. A key with one value may have come to its grid since, or gone from it: it is
    then no part of the place.
    """
    found, old = {run["id"]: dict(run) for run in runs}, [*earlier]
    axes, axes_before = _axes(found.values()), _axes(old)
    taken = {_place(cell, axes, axes_before) for run in found.values() for cell in run["cells"]}
    for run in old:
        cells = [cell for cell in run["cells"] if _place(cell, axes_before, axes) not in taken]
        if run["id"] in found:
            found[run["id"]]["cells"] = [*found[run["id"]]["cells"], *cells]
        elif cells or not run["cells"]:
            found[run["id"]] = {**run, "cells": cells}
    return list(found.values())


_Axes = Mapping[str, Mapping[str, set[str]]]  # of each grid: axis -> its values as JSON; of cells without it, ""


def _axes(runs: Iterable[Mapping[str, Any]]) -> _Axes:
    cells = [cell for run in runs for cell in run["cells"]]
    found: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        found.setdefault(cell["grid"], {}).update((axis, set()) for axis in cell["axes"])
    for cell in cells:
        for axis, values in found[cell["grid"]].items():
            values.add(compact_json(cell["axes"][axis]) if axis in cell["axes"] else "")
    return found


def _place(cell: Mapping[str, Any], own: _Axes, others: _Axes) -> str:
    grid, there = cell["grid"], others.get(cell["grid"], {})
    kept = {axis: value for axis, value in cell["axes"].items() if axis in there or len(own[grid][axis]) > 1}
    return json.dumps([grid, kept], sort_keys=True)


def _lines(value: Mapping[str, Any]) -> str:
    """JSON with a key in a line, and an item of a long list in a line."""

    def text(part: Any) -> str:
        return (
            "[\n" + ",\n".join(map(compact_json, part)) + "]" if isinstance(part, list) and part else compact_json(part)
        )

    return "{" + ",\n".join(f"{compact_json(key)}:{text(part)}" for key, part in value.items()) + "}\n"
