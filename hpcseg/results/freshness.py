"""Results that may not be what the sweep asks for now (stale), and tables whose results were not made alike (mixed)."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE, RESULT_FILE, RUN_FILE, TRAINING_FILE
from hpcseg.runs.parents import fingerprint, read_parents
from hpcseg.sections import flatten
from hpcseg.spec import read_spec, spec_digest
from hpcseg.text import counted

if TYPE_CHECKING:
    from hpcseg.results.collection import Result

COPIED_S = 3600.0  # a result.json this much younger than what it says was copied: file times tell nothing then
SAME_MOMENT_S = 1.0  # resolution of some file systems' times
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Mixture:
    """How the results of a table differ in what made them.

    Attributes:
        lines: one for each kind of difference, e.g. "torch 2.11.0 (34 runs), 2.12.0 (1 run)"; none where all are alike.
        odd: ids of the runs that were not made as most were.
    """

    lines: tuple[str, ...] = ()
    odd: frozenset[str] = frozenset()


def why_stale(folder: Path, config: Mapping[str, Any], result: Result, plan: bytes | None) -> str:
    """Why the result in a run's directory may not be of the run as the sweep describes it; "" where nothing says so.

    Looked at: what the result says of its own run, what `run.json` asks for, whether the networks and labels that
    taught it are still there as they were, and whether `run.json` or the trained weights are younger than the result
    (not in directories that were copied without their times).

    Args:
        folder: of the run.
        config: its whole configuration, as the sweep was applied.
        result: of this run, by its id.
        plan: what `run.json` holds, if it is there.

    Raises:
        BadInput: `parents.json` cannot be read.
    """
    for key in ("strategy", "labelled", "fold", "seed"):
        found = getattr(result, key)
        if found is not None and found != config.get(key, found):
            return f"it is of {key} = {found}, the sweep has {config[key]}"
    return remade_parent(folder) or _of_another_plan(plan or b"", result.id, config) or _overtaken(folder, result)


def remade_parent(folder: Path) -> str:
    """Which network or labels, from which the run in a directory was made, are no longer what they were; "" if none.

    Raises:
        BadInput: `parents.json` cannot be read.
    """
    changed = (
        file
        for file, known in read_parents(folder).items()
        if fingerprint(folder.parents[1] / file) not in {None, known}
    )
    return next((f"{file}, which taught it, was made anew" for file in changed), "")


def _of_another_plan(plan: bytes, run: str, config: Mapping[str, Any]) -> str:
    """What differs between `run.json` and the plan in what a result depends on."""
    try:
        named, there = (_decode(plan, key) for key in (b'"id":', b'"config":'))
    except (RecursionError, ValueError):
        return ""  # nothing to compare with
    if named != run:
        return f"{RUN_FILE} is of run {named}"
    if not isinstance(there, dict) or there == config:
        return ""
    keys = _differing(there, config)
    return f"{RUN_FILE} has other values than the sweep ({', '.join(keys)})" if keys else ""


def _decode(plan: bytes, key: bytes) -> Any:
    """The JSON value of a key; what follows, hundreds of scans in ten thousand files, is not read."""
    start = plan.index(key) + len(key)
    end = plan.find(b',\n "', start)  # of the next key, where hpcseg wrote the file
    with contextlib.suppress(ValueError):
        return from_json(plan[start:end])
    return _DECODER.raw_decode(plan[start:].decode().lstrip())[0]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys in which two configurations differ, of those that a result depends on."""
    from hpcseg.config import RunConfig
    from hpcseg.study.identity import canonical, relevant

    try:
        values = [flatten(json.loads(canonical(relevant(RunConfig.model_validate(config))))) for config in (one, other)]
    except ValueError:  # also what no JSON has, as NaN
        return ["keys of another version of hpcseg"]
    return sorted(key for key in values[0].keys() | values[1].keys() if values[0].get(key) != values[1].get(key))


def _overtaken(folder: Path, result: Result) -> str:
    """Which file of the run is younger than its result, unless that says by digests that it is of what is there."""
    times = {name: _modified(f"{folder}/{name}") for name in (RESULT_FILE, RUN_FILE, TRAINING_FILE)}
    measured = times[RESULT_FILE]
    try:
        finished = datetime.fromisoformat(result.finished).timestamp()
    except ValueError:
        return ""
    if measured is None or abs(measured - finished) > COPIED_S:
        return ""
    for name, what in ((RUN_FILE, "the run was planned again"), (TRAINING_FILE, "the run was trained again")):
        time = times[name]
        if time is not None and time > measured + SAME_MOMENT_S and not _is_of(result, folder, name):
            return f"{what} after it was measured ({name} is younger)"
    return ""


def _is_of(result: Result, folder: Path, name: str) -> bool:
    """Whether a result was measured on what a file of its run says now, whatever the times of both: clocks jump, and
    times change by copying. False where it does not say on what (earlier versions)."""
    from hpcseg.training.checkpoint import digest_of

    try:
        if name == RUN_FILE:
            return bool(result.digest) and spec_digest(read_spec(folder)) == result.digest
        return bool(result.model) and digest_of(folder / MODEL_FILE) == result.model
    except BadInput:
        return False


def _modified(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return None


def mixture(results: Iterable[Result]) -> Mixture:
    """Where results were not all made by one version of the code, one torch and one kind of hardware. Pure.

    What a result does not say counts as unknown only where others say it.
    """
    made = {result.id: circumstances(result) for result in results}
    lines, odd = [], set()
    for index, kind in enumerate(("hpcseg", "torch", "hardware")):
        counts = Counter(one[index] for one in made.values())
        if len(counts) < 2:
            continue
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{value} ({counted(count, 'run')})" for value, count in ordered]
        lines.append(f"{kind} {', '.join(shown)}")
        odd |= {run for run, one in made.items() if one[index] != ordered[0][0]}
    return Mixture(tuple(lines), frozenset(odd))


def circumstances(result: Result) -> tuple[str, str, str]:
    """Version of the code, version of torch, and kind of hardware behind a result; "unknown" where it does not say."""
    torch, device = result.code.get("torch"), result.hardware.get("device")
    return result.version, str(torch or "unknown"), str(device or "unknown")
