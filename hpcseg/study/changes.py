"""How a plan differs from the last application of its sweep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.files import read_bytes
from hpcseg.paths import STAGES, SWEEP_FILE, sweep_folder
from hpcseg.runs.applied import Sections, applied_sweeps, not_a_record, read_runs, read_sweep_record
from hpcseg.sections import flatten
from hpcseg.study.resolver import Stage
from hpcseg.study.sweepfile import Sweep

Cells = Mapping[str, Sequence[Mapping[str, Any]]]  # of each training run: grid, axes, number


@dataclass(frozen=True)
class Difference:
    """A key that changed for some runs since the sweep was last applied."""

    key: str
    before: Any
    now: Any
    runs: int


@dataclass(frozen=True)
class Changes:
    """What differs from the last application of the sweep.

    Attributes:
        applied: when that was; empty: never.
        changed: training runs that stand in a cell where another run stood, which is given.
        differences: keys of the configuration in which they differ; none where their data differ.
        left_out: training runs of the last application that this plan has not.
        orphaned: runs of each stage that the last application had, and neither this plan nor another sweep has.
    """

    applied: str = ""
    changed: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    left_out: tuple[str, ...] = ()
    orphaned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "last_applied": self.applied,
            "changed": dict(self.changed),
            "differences": [vars(difference) for difference in self.differences],
            "left_out": list(self.left_out),
            "orphaned": {stage: list(ids) for stage, ids in self.orphaned.items()},
        }


def compare(sweep: Sweep, runs_root: Path, stages: Mapping[str, Stage], cells: Cells) -> Changes:
    """How a plan (its `stages` and `cells`) differs from the last application of its sweep.

    Raises:
        BadInput: that was of another sweep file, which is still there, or its record is damaged.
    """
    path = sweep_folder(runs_root, sweep.name) / SWEEP_FILE
    if not path.exists():
        return Changes()
    last = read_sweep_record(runs_root, sweep.name)
    _require_same_file(sweep, last, runs_root)
    try:
        before = {stage: dict.fromkeys(last["stages"].get(stage, ())) for stage in STAGES}
        gone = {stage: [run_id for run_id in ids if run_id not in stages] for stage, ids in before.items()}
        elsewhere = _runs_of_others(runs_root, sweep.name) if any(gone.values()) else set()
        changed: dict[str, str] = {}
        differences: tuple[Difference, ...] = ()
        new = [run_id for run_id in cells if run_id not in before["train"]]
        if new and before["train"]:
            runs = read_runs(runs_root, sweep.name)
            changed = _changed(new, cells, runs)
            differences = _differences(changed, stages, runs)
    except (KeyError, TypeError, AttributeError) as error:
        raise not_a_record(path, repr(error)) from None
    return Changes(
        applied=last.get("applied", ""),
        changed=changed,
        differences=differences,
        left_out=tuple(gone["train"]),
        orphaned={stage: tuple(i for i in ids if i not in elsewhere) for stage, ids in gone.items()},
    )


def _require_same_file(sweep: Sweep, last: Mapping[str, Any], runs_root: Path) -> None:
    """Refuse to take the place of another sweep that happens to have the same name."""
    path, other = sweep.source.path.resolve(), Path(last.get("file", ""))
    if not other.is_absolute() or other == path or not other.exists():
        return
    if read_bytes(other).decode(errors="replace") != sweep.source.text:
        raise BadInput(
            f"{path}: sweep '{sweep.name}' was applied in {runs_root} from {other}; "
            "give one of the two another `name` in [sweep], or use another --runs"
        )


def _runs_of_others(runs_root: Path, name: str) -> set[str]:
    """Runs of all stages of all applied sweeps but this one."""
    records = [read_sweep_record(runs_root, other) for other in applied_sweeps(runs_root) if other != name]
    return {run_id for other in records for ids in other["stages"].values() for run_id in ids}


def _changed(new: Sequence[str], cells: Cells, runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which of the `new` runs stand in a cell of one of `runs`, and of which.

    A cell has its place on the axes that its grid has both now and before, if that tells the runs apart: so an axis of
    one value may come or go.
    """
    before = {cell["grid"]: cell["axes"].keys() for run in runs for cell in run["cells"]}
    now = {cell["grid"]: cell["axes"].keys() for places in cells.values() for cell in places}
    shared = {grid: sorted(before[grid] & now[grid]) for grid in before.keys() & now.keys()}

    def place(cell: Mapping[str, Any]) -> str:
        return json.dumps([cell["grid"], [cell["axes"][axis] for axis in shared[cell["grid"]]]])

    stood: dict[str, set[str]] = {}
    for run in runs:
        for cell in run["cells"]:
            if cell["grid"] in shared:
                stood.setdefault(place(cell), set()).add(run["id"])
    found = {}
    for run_id in new:
        there = [stood.get(place(cell), set()) for cell in cells[run_id] if cell["grid"] in shared]
        known = [next(iter(others)) for others in there if len(others) == 1]
        if known:
            found[run_id] = known[0]
    return found


def _differences(
    changed: Mapping[str, str], stages: Mapping[str, Stage], runs: Sequence[Mapping[str, Any]]
) -> tuple[Difference, ...]:
    """Keys in which changed runs differ from those in whose cells they stand, the most frequent first."""
    before = {run["id"]: run["config"] for run in runs}
    sections = Sections()
    found: Counter[tuple[str, str, str]] = Counter()
    for run_id, other in changed.items():
        config = stages[run_id].config
        if config is None:
            continue
        for name, part in config:
            old, now = before[other].get(name), sections.of(part)
            if old == now:
                continue
            old_keys, now_keys = flatten({name: old}), flatten({name: now})
            for key in (*now_keys, *(key for key in old_keys if key not in now_keys)):
                pair = (json.dumps(old_keys.get(key)), json.dumps(now_keys.get(key)))
                found[(key, *pair)] += pair[0] != pair[1]
    return tuple(
        Difference(key, json.loads(old), json.loads(now), count)
        for (key, old, now), count in found.most_common()
        if count
    )
