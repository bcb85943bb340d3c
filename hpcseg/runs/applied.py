"""What is kept of an applied sweep.

<runs>/sweeps/<name>/sweep.json  name, title, file, overrides, grids (that were asked for), applied, tables, figures;
                                 `stages`: runs of each stage,
                                 `needs`: what each run needs; `cancelled`: when it was
<runs>/sweeps/<name>/runs.json   `base`: a configuration without sections of strategies; `runs`: of each training run
                                 its cells in the grids, and the dotted keys in which it differs from the base

Status needs the first only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.files import compact_json, write_text
from hpcseg.paths import RUNS_FILE, SWEEP_FILE, SWEEPS_FOLDER, plain_name, sweep_folder
from hpcseg.runs.locks import locked
from hpcseg.seals import read_sealed, sealed_text


def applied_sweeps(runs_root: Path) -> list[str]:
    """Names of the sweeps that were applied here."""
    return sorted(path.parent.name for path in runs_root.glob(f"{SWEEPS_FOLDER}/*/{SWEEP_FILE}"))


def read_sweep_record(runs_root: Path, name: str) -> dict[str, Any]:
    """`sweep.json` of an applied sweep.

    Raises:
        BadInput: no such sweep was applied here (the message lists those that were), or the file is damaged.
    """
    path = sweep_folder(runs_root, name) / SWEEP_FILE
    if not path.exists():
        there = ", ".join(applied_sweeps(runs_root)) or "none"
        raise BadInput(
            f"{runs_root}: no sweep '{name}' was applied here (there are: {there}); hpcseg sweep FILE applies one"
        )
    record = read_sealed(path)
    if not isinstance(record, dict):
        raise not_a_record(path, "an object is missing")
    record.setdefault("needs", {})
    try:
        _check_ids(record)
    except (AttributeError, TypeError, ValueError) as error:
        raise not_a_record(path, str(error)) from None
    return record


def _check_ids(record: dict[str, Any]) -> None:
    """Raise ValueError or the like where `stages` or `needs`, if there, are not of ids, of which paths are made, or
    runs need each other."""
    for kind in ("stages", "needs"):
        for run_id in (name for ids in record.get(kind, {}).values() for name in ids):
            plain_name(run_id)
    TopologicalSorter(record["needs"]).prepare()


def mark_cancelled(runs_root: Path, name: str) -> None:
    """Note that a sweep was cancelled: until it is applied again, it needs nothing that it shares with others.

    Raises:
        HpcsegError: another process is submitting for too long.
    """
    path = sweep_folder(runs_root, name) / SWEEP_FILE
    with locked(runs_root):  # else a sweep that is applied meanwhile would be lost
        record = read_sweep_record(runs_root, name) | {"cancelled": time.time()}
        write_text(path, sealed_text(path, compact_json(record)))


def read_runs(runs_root: Path, name: str) -> list[dict[str, Any]]:
    """The training runs of an applied sweep, each with its id, its whole configuration and its cells.

    Raises:
        BadInput: the record is missing or damaged.
    """
    path = sweep_folder(runs_root, name) / RUNS_FILE
    kept = read_sealed(path, optional=True)
    if kept is None:
        raise BadInput(f"{path}: no such file; apply the sweep again with `hpcseg sweep FILE`")
    try:
        return [
            {"id": run["id"], "config": _whole(kept["base"], run["differs"]), "cells": run["cells"]}
            for run in kept["runs"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: not a record of runs ({error!r}); apply the sweep again") from None


def described(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`runs.json` of training runs as `read_runs` gives them."""
    configs = [run["config"] for run in runs]
    base = _shared(configs) if configs else {}
    kept = [{"id": run["id"], "differs": _differing(run["config"], base), "cells": run["cells"]} for run in runs]
    return {"base": base, "runs": kept}


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first configuration, with the sections and keys only that all have."""
    first, *others = configs
    return {
        key: _shared([value, *(one[key] for one in others)]) if isinstance(value, Mapping) else value
        for key, value in first.items()
        if all(key in one for one in others)
    }


def _differing(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of a configuration with another value than in `base`: what `_whole` adds to it."""
    found: dict[str, Any] = {}
    for name, part in config.items():
        if isinstance(part, Mapping):
            there = base.get(name, {})
            found |= {f"{name}.{key}": one for key, one in part.items() if key not in there or there[key] != one}
        elif name not in base or base[name] != part:
            found[name] = part
    return found


def not_a_record(path: Path, why: str) -> BadInput:
    """What to raise where a file is not `sweep.json`."""
    return BadInput(f"{path}: not the record of a sweep ({why}); remove the file and apply the sweep again")


class Sections:
    """Parts of configurations as JSON values; sections that several configurations share are made once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    def of(self, part: Any) -> Any:
        """A section, or the value of a plain key."""
        if not hasattr(part, "model_dump"):
            return part
        if id(part) not in self._known:
            self._known[id(part)] = (part, part.model_dump(mode="json"))
        return self._known[id(part)][1]


def _whole(base: Mapping[str, Any], differs: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that differs so from `base`; what is the same is not copied."""
    config = dict(base)
    for key, value in differs.items():
        section, _, name = key.rpartition(".")
        if section:
            config[section] = {**config.get(section, {}), name: value}
        else:
            config[name] = value
    return config
