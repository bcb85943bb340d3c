"""Splits that are given, so that published ones can be repeated. Three forms:

- nnU-Net's `splits_final.json`: a list of {"train": [case, ...], "val": [case, ...]}, an item for each fold;
- a JSON list of {"case": ..., "fold": ..., "role": ..., "rank": ...};
- a CSV file with these columns.

Roles are labelled, unlabelled, validation and test. No fold (empty, null or left out): every fold. Ranks say in which
order smaller labelled subsets take cases; without them it is the order of the rows, and in nnU-Net's form that of drawn
folds. Cases that a fold does not name are not used in it. A file that names test cases alone, for every fold, sets
them aside: the folds are drawn from the others.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from hpcseg.errors import BadInput
from hpcseg.text import nearest
from hpcseg.volumes.folds import Split, first_cases, split_cases, subset_order

Role = Literal["labelled", "unlabelled", "validation", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
_COLUMNS = ("case", "fold", "role", "rank")
_NNUNET = {"train", "val"}


class Row(NamedTuple):
    """One case in one fold, or in every fold (None)."""

    case: str
    fold: int | None
    role: Role
    rank: int | None = None


@dataclass(frozen=True)
class GivenFold:
    """Cases by role; those that are labelled in the order in which subsets take them, if `ranked`."""

    cases: Mapping[Role, tuple[str, ...]]
    ranked: bool = True


@dataclass(frozen=True)
class GivenSplits:
    """What a file says.

    Attributes:
        path: of the file, for messages.
        folds: none where they are to be drawn.
        test: cases of which no fold may be drawn.
    """

    path: Path
    folds: tuple[GivenFold, ...] = ()
    test: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)

    def split(self, *, fold: int, labelled: int | Literal["all"], folds: int, seed: int) -> Split:
        """The cases of one fold and one number of labelled cases.

        Args:
            fold: from 0.
            labelled: how many of the labelled cases are; the others count as unlabelled.
            folds: how many, where the file does not say.
            seed: of what the file leaves to be drawn.

        Raises:
            BadInput: no such fold, or more labelled cases wanted than there are.
        """
        if not self.folds:
            pool = {case: group for case, group in self.groups.items() if case not in self.test}
            drawn = split_cases(pool, folds=folds, fold=fold, labelled=labelled, seed=seed)
            return Split(drawn.labelled, drawn.unlabelled, drawn.validation, tuple(sorted(self.test)))
        if fold >= len(self.folds):
            raise BadInput(f"fold = {fold} does not exist: {self.path} has {_folds_text(len(self.folds))}")
        given = self.folds[fold]
        order: Sequence[str] = given.cases["labelled"]
        if not given.ranked:
            order = subset_order({case: self.groups[case] for case in order}, seed=seed, fold=fold)
        first, rest = first_cases(order, labelled, f"{self.path}: fold {fold}")
        held_out = (tuple(sorted(given.cases[role])) for role in ("validation", "test"))
        return Split(first, (*rest, *given.cases["unlabelled"]), *held_out)


def read_splits(path: Path, groups: Mapping[str, str]) -> GivenSplits:
    """Read the splits of a dataset.

    Args:
        path: a `.csv` file, or JSON.
        groups: case -> its group, for every case that may have a role.

    Raises:
        BadInput: the file cannot be read or is of no form above; it names a case that is not there, or one twice in a
            fold; a fold lacks labelled or validation cases; ranks repeat; a group is on two sides of a fold.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); correct data.splits") from None
    try:
        return parse_splits(text, path, groups)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def parse_splits(text: str, path: Path, groups: Mapping[str, str]) -> GivenSplits:
    """The splits that a file's text gives; see `read_splits`."""
    if path.suffix.lower() == ".csv":
        lines = csv.DictReader(text.splitlines())
        _require_columns(lines.fieldnames or ())
        items: Any = list(lines)
    else:
        items = _json_list(text)
    if items and all(isinstance(item, dict) and item.keys() == _NNUNET for item in items):
        folds = [_nnunet_fold(number, item) for number, item in enumerate(items)]
    else:
        rows = [_row(number, item) for number, item in enumerate(items, start=1)]
        if rows and all(row.role == "test" and row.fold is None for row in rows):
            test = GivenFold({"test": tuple(row.case for row in rows)})
            _check("the test set", test, groups)
            _check_sides(
                "the test set", groups, {"test": test.cases["test"], "others": set(groups) - {*test.cases["test"]}}
            )
            return GivenSplits(path, test=test.cases["test"], groups=groups)
        folds = _folds(rows)
    for number, fold in enumerate(folds):
        where = f"fold {number}"
        _check(where, fold, groups)
        for role in ("labelled", "validation"):
            if not fold.cases[role]:
                raise BadInput(f"{where} has no {role} case; add some, or number folds from 0 without a gap")
        training = (*fold.cases["labelled"], *fold.cases["unlabelled"])
        held_out = {role: fold.cases[role] for role in ("validation", "test")}
        _check_sides(where, groups, {"training": training, **held_out})
    return GivenSplits(path, tuple(folds), groups=groups)


def _json_list(text: str) -> list[Any]:
    try:
        items = json.loads(text)
    except (RecursionError, ValueError) as error:  # brackets in brackets, a number of thousands of digits
        raise BadInput(f"not valid JSON ({str(error).split(';')[0]})") from None
    if not isinstance(items, list) or not items:
        raise BadInput('needs a list, of {"train": [...], "val": [...]} or of {"case": ..., "fold": ..., "role": ...}')
    return items


def _require_columns(found: Sequence[str]) -> None:
    for name in found:
        if name not in _COLUMNS:
            raise BadInput(f"there is no column {name!r}{nearest(name, _COLUMNS)}; the first line names the columns")
    if not {"case", "role"} <= set(found):
        raise BadInput("the first line has to name the columns: case,fold,role,rank")


def _nnunet_fold(number: int, item: Mapping[str, Any]) -> GivenFold:
    for key, names in item.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f"fold {number}: {key} must list names of cases")
    none: tuple[str, ...] = ()
    train, val = tuple(item["train"]), tuple(item["val"])
    return GivenFold({"labelled": train, "unlabelled": none, "validation": val, "test": none}, ranked=False)


def _row(number: int, item: Any) -> Row:
    where = f"row {number}"
    if not isinstance(item, dict) or not isinstance(item.get("case"), str) or not item.keys() <= set(_COLUMNS):
        raise BadInput(f"{where} must be of case, fold, role and rank, not {item!r}")
    role = item.get("role")
    if role not in ROLES:
        raise BadInput(f"{where}: role = {role!r} is not allowed{nearest(str(role), ROLES)}; use {', '.join(ROLES)}")
    fold, rank = (_number(where, key, item.get(key)) for key in ("fold", "rank"))
    if rank is not None and role != "labelled":
        raise BadInput(f"{where}: {item['case']!r} has a rank, and is not labelled")
    return Row(item["case"], fold, role, rank)


def _number(where: str, key: str, value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise BadInput(f"{where}: {key} = {value!r} must be a number from 0 on")


def _folds(rows: Sequence[Row]) -> list[GivenFold]:
    count = max((row.fold + 1 for row in rows if row.fold is not None), default=1)
    if count > max(len(rows), 1):
        raise BadInput(f"fold {count - 1} is the last, in {len(rows)} rows; number folds from 0 without a gap")
    folds = []
    for number in range(count):
        here = [row for row in rows if row.fold in (None, number)]
        labelled = [row for row in here if row.role == "labelled"]
        ranks = [row.rank for row in labelled if row.rank is not None]
        if ranks and len(ranks) < len(labelled):
            raise BadInput(
                f"fold {number}: {len(ranks)} of {len(labelled)} labelled cases have a rank; give all one or none"
            )
        for rank in ranks:
            if ranks.count(rank) > 1:
                raise BadInput(f"fold {number}: two labelled cases have the rank {rank}")
        labelled.sort(key=lambda row: row.rank or 0)
        cases = {role: tuple(row.case for row in here if row.role == role) for role in ROLES}
        folds.append(GivenFold(cases | {"labelled": tuple(row.case for row in labelled)}))
    return folds


def _check(where: str, fold: GivenFold, groups: Mapping[str, str]) -> None:
    """Refuse cases that are not there, and those that have two places."""
    role_of: dict[str, str] = {}
    for role, cases in fold.cases.items():
        for case in cases:
            if case not in groups:
                raise BadInput(f"{where}: {case!r} is no labelled case of the dataset{nearest(case, groups)}")
            if case in role_of:
                both = f"twice as {role}" if role_of[case] == role else f"as {role_of[case]} and as {role}"
                raise BadInput(f"{where}: {case!r} is listed {both}; leave it once")
            role_of[case] = role


def _check_sides(where: str, groups: Mapping[str, str], sides: Mapping[str, Iterable[str]]) -> None:
    """Refuse a group (one patient) on two sides."""
    seen: dict[str, tuple[str, str]] = {}
    for side, cases in sides.items():
        for case in sorted(cases):
            other, its_side = seen.setdefault(groups[case], (case, side))
            if its_side != side:
                raise BadInput(
                    f"{where}: {other!r} ({its_side}) and {case!r} ({side}) are of one patient by data.groups; "
                    "put them on one side"
                )


def _folds_text(count: int) -> str:
    return f"folds 0 to {count - 1}" if count > 1 else "fold 0 alone"
