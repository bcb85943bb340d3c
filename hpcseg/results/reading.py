"""From the directories of runs to their results; where there are thousands, a second process reads half of them."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import UNSET, Meta, MsgspecError, defstruct, field
from msgspec.json import Decoder
from msgspec.structs import astuple
from pydantic import ValidationError

from hpcseg.errors import BadInput
from hpcseg.inference.metrics import METRICS
from hpcseg.paths import RESULT_FILE
from hpcseg.results.collection import Result
from hpcseg.results.freshness import why_stale
from hpcseg.results.scores import evident
from hpcseg.results.second_process import Other, ask
from hpcseg.runs.result_file import read_usable
from hpcseg.text import in_words
from hpcseg.volumes.datasets import Progress

PIECE, SHARE = 32, 8  # runs that are read between two looks at the other process; pieces that it gets at once


class Asked(NamedTuple):
    """Directory of a run, and its configuration as the sweep was applied."""

    folder: Path
    config: Mapping[str, Any]


class Found(NamedTuple):
    """What is known of a run's result: why it may be of another run, and what is wrong with its file, in a line."""

    result: Result | None
    stale: str = ""
    problem: str = ""

    def as_stale(self, folder: Path, why: str) -> Found:
        """The same result, of a run in this directory, as one that may be of another run."""
        return Found(self.result, why, f"{folder}/{RESULT_FILE}: stale: {why}; delete it and run the sweep again")


def read_run(asked: Asked) -> Found:
    """The result of a run; without one and without a problem where there is none."""
    folder, config = asked
    path = f"{folder}/{RESULT_FILE}"
    try:
        content, plan = read_usable(folder, folder.name)
        result = parse_result(content)
    except BadInput as error:
        problem = f"{error}; run the sweep again, which measures it anew"
        return Found(None, problem=problem if (folder / RESULT_FILE).exists() else "")
    except ValidationError as error:
        return Found(None, problem=f"{path}: not a result ({first_problem(error)}); delete it and run the sweep again")
    try:
        stale = why_stale(folder, config, result, plan)
    except BadInput as error:
        return Found(None, problem=str(error))
    return Found(result).as_stale(folder, stale) if stale else Found(result)


def parse_result(content: bytes) -> Result:
    """What `result.json` holds: in a third of pydantic's time where each score has all metrics, within their limits.

    Raises:
        ValidationError: it is no result, or not JSON.
    """
    with contextlib.suppress(MsgspecError, RecursionError, ValueError):
        found = _decoder().decode(content)
        known = {name: value for name in found.__struct_fields__ if (value := getattr(found, name)) is not UNSET}
        return Result.model_validate(
            known | {"sets": {name: evident(map(astuple, rows)) for name, rows in found.sets.items()}}
        )
    return Result.model_validate_json(content)


@functools.cache
def _decoder() -> Decoder[Any]:
    """Of results; it raises where a score is not evidently right."""
    limits = {metric.key: Meta(ge=metric.lowest, le=metric.highest) for metric in METRICS.values()}
    metrics = [(key, Annotated[float, limit] | None) for key, limit in limits.items()]
    score = defstruct("score", [("case", str), ("class_", int, field(name="class")), *metrics], gc=False)
    others = [(name, Any, UNSET) for name in Result.model_fields if name != "sets"]
    return Decoder(defstruct("result", [("sets", dict[str, list[score]]), *others]))  # type: ignore[valid-type]


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'content'}: {in_words(problem)}"


def read_pieces(pieces: Sequence[Sequence[Asked]]) -> list[list[Found]]:
    """The results of several pieces, for the other process."""
    return [[*map(read_run, piece)] for piece in pieces]


def read_results(asked: Sequence[Asked], other: Other, progress: Progress | None = None) -> list[Found]:
    """The results of runs, in their order, whoever reads them.

    Args:
        other: what it leaves unread is read here.
        progress: called with the last run of each piece that is read here.
    """
    pieces = [asked[first : first + PIECE] for first in range(0, len(asked), PIECE)]
    todo = deque(range(len(pieces)))
    found: dict[int, list[Found]] = {}
    away = _ask(other, pieces, todo)
    while todo or away:
        if other and away and other.poll(0 if todo else None):
            try:
                found |= zip(away, other.recv(), strict=True)
                away = _ask(other, pieces, todo)
            except (EOFError, OSError):  # it has died
                todo.extend(away)
                away = []
        else:
            number = todo.popleft()
            found[number] = [*map(read_run, pieces[number])]
            if progress:
                progress(PIECE * len(found), len(asked), pieces[number][-1].folder.name)
    return [one for number in range(len(pieces)) for one in found[number]]


def _ask(other: Other, pieces: Sequence[Sequence[Asked]], todo: deque[int]) -> list[int]:
    """Ask the other process for the last pieces, and for fewer towards the end: their numbers."""
    numbers = [todo.pop() for _ in range(min(SHARE, len(todo) // 2))]
    if numbers and not ask(other, read_pieces, [pieces[number] for number in numbers]):
        todo.extend(reversed(numbers))
        return []
    return numbers
