"""Given splits: what every form says, what must hold of any of them, and each mistake in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.errors import BadInput
from hpcseg.volumes.folds import split_cases
from hpcseg.volumes.splits import GivenSplits, parse_splits, read_splits

CASES = tuple(f"case_{number:02d}" for number in range(10))
SINGLES = {case: case for case in CASES}
PAIRS = {case: f"pair_{number // 2}" for number, case in enumerate(CASES)}
ANY = {"folds": 5, "seed": 0}


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, ["case", "fold", "role", "rank"])
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def of_rows(*rows: tuple[Any, ...], groups: dict[str, str] = SINGLES) -> GivenSplits:
    items = [dict(zip(("case", "fold", "role", "rank"), row, strict=False)) for row in rows]
    return parse_splits(json.dumps(items), Path("splits.json"), groups)


def test_the_form_of_nnunet_gives_folds_whose_ranking_is_drawn() -> None:
    text = json.dumps([{"train": [*CASES[5:]], "val": [*CASES[:5]]}, {"train": [*CASES[:5]], "val": [*CASES[5:]]}])
    splits = parse_splits(text, Path("splits_final.json"), PAIRS | {CASES[4]: "a", CASES[5]: "b"})
    first, second = (splits.split(fold=fold, labelled=2, **ANY) for fold in (0, 1))
    assert first.validation == CASES[:5] and second.validation == CASES[5:]
    assert first.test == ()
    assert {*first.labelled, *first.unlabelled} == {*CASES[5:]}
    more = splits.split(fold=0, labelled=4, **ANY)
    assert more.labelled[:2] == first.labelled
    assert len({splits.groups[case] for case in splits.split(fold=0, labelled=3, **ANY).labelled}) == 3
    assert splits.split(fold=0, labelled="all", folds=5, seed=1).labelled != more.labelled + more.unlabelled


def test_rows_give_roles_in_the_order_of_their_ranks_and_what_is_beyond_counts_as_unlabelled() -> None:
    rows = [("case_03", 0, "labelled", 2), ("case_01", 0, "labelled", 1), ("case_02", 0, "labelled", 7)]
    rest = [("case_00", 0, "unlabelled"), ("case_05", 0, "validation"), ("case_04", 0, "validation")]
    splits = of_rows(*rows, *rest, ("case_09", None, "test"), ("case_08", None, "test"))
    split = splits.split(fold=0, labelled=2, **ANY)
    assert split.labelled == ("case_01", "case_03")
    assert split.unlabelled == ("case_02", "case_00")
    assert split.validation == ("case_04", "case_05")
    assert split.test == ("case_08", "case_09")
    assert splits.split(fold=0, labelled="all", **ANY).labelled == ("case_01", "case_03", "case_02")


@given(data=st.data(), folds=st.integers(1, 3))
def test_csv_and_json_say_the_same_and_a_row_without_a_fold_is_of_every_fold(data: st.DataObject, folds: int) -> None:
    rows: list[dict[str, Any]] = []
    everywhere = data.draw(st.sampled_from(["labelled", "unlabelled", "validation", "test"]))
    rows.append({"case": CASES[9], "fold": "", "role": everywhere})
    for fold in range(folds):
        order = data.draw(st.permutations(CASES[:9]))
        cuts = sorted(data.draw(st.lists(st.integers(2, 9), min_size=2, max_size=2)))
        rows += [{"case": case, "fold": fold, "role": "labelled"} for case in order[:1]]
        rows += [{"case": case, "fold": fold, "role": "validation"} for case in order[1 : cuts[0]]]
        rows += [{"case": case, "fold": fold, "role": "unlabelled"} for case in order[cuts[0] : cuts[1]]]
        rows += [{"case": case, "fold": fold, "role": "test"} for case in order[cuts[1] :]]
    as_json = [{key: value for key, value in row.items() if value != ""} for row in rows]
    one = parse_splits(as_csv(rows), Path("splits.csv"), SINGLES)
    two = parse_splits(json.dumps(as_json), Path("splits.json"), SINGLES)
    assert len(one.folds) == folds
    for fold in range(folds):
        split = one.split(fold=fold, labelled="all", **ANY)
        assert split == two.split(fold=fold, labelled="all", **ANY)
        parts = [*split.labelled, *split.unlabelled, *split.validation, *split.test]
        assert sorted(parts) == [*CASES]
        roles = {"labelled": split.labelled, "unlabelled": split.unlabelled}
        assert CASES[9] in (roles | {"validation": split.validation, "test": split.test})[everywhere]


def test_test_cases_alone_are_set_aside_and_folds_drawn_from_the_others() -> None:
    splits = of_rows(("case_01", None, "test"), ("case_00", None, "test"), groups=PAIRS)
    pool = {case: group for case, group in PAIRS.items() if case not in CASES[:2]}
    for fold in range(4):
        split = splits.split(fold=fold, labelled=2, folds=4, seed=3)
        drawn = split_cases(pool, folds=4, fold=fold, labelled=2, seed=3)
        assert (split.labelled, split.unlabelled, split.validation) == (
            drawn.labelled,
            drawn.unlabelled,
            drawn.validation,
        )
        assert split.test == CASES[:2]


def test_without_a_file_nothing_is_set_aside() -> None:
    split = GivenSplits(Path(), groups=SINGLES).split(fold=1, labelled=3, **ANY)
    assert split == split_cases(SINGLES, folds=5, fold=1, labelled=3, seed=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("case_1", 0, "test")], r"'case_1' is no labelled case of the dataset; did you mean 'case_\d\d'\?"),
        (
            [("case_01", 0, "test"), ("case_01", None, "test")],
            r"fold 0: 'case_01' is listed twice as test; leave",
        ),
        ([("case_01", 0, "labelled"), ("case_01", 0, "test")], r"'case_01' is listed as labelled and as test"),
        (
            [("case_01", 0, "trian")],
            r"row 1: role = 'trian' is not allowed; .*use labelled, unlab",
        ),
        ([("case_01", -1, "test")], r"row 1: fold = -1 must be a number from 0 on"),
        ([("case_01", 0, "test", 1)], r"row 1: 'case_01' has a rank, and is not labelled"),
        ([("case_01", 0, "labelled", 1), ("case_02", 0, "labelled", 1)], r"two labelled cases have the rank 1"),
        ([("case_01", 0, "labelled", 1), ("case_02", 0, "labelled")], r"1 of 2 labelled cases have a rank; give all"),
        ([("case_01", 0, "labelled")], r"fold 0 has no validation case"),
        ([("case_01", 1, "labelled"), ("case_02", 1, "validation")], r"fold 0 has no labelled case; .* without a gap"),
        ([("case_01", 0, "test")], r"fold 0 has no labelled case"),
        (
            [("case_00", 0, "labelled"), ("case_01", 0, "validation")],
            r"fold 0: 'case_00' \(training\) and 'case_01' \(validation\) are of one patient by data\.groups",
        ),
        (
            [
                ("case_02", 0, "unlabelled"),
                ("case_03", 0, "test"),
                ("case_04", 0, "labelled"),
                ("case_06", 0, "validation"),
            ],
            r"'case_02' \(training\) and 'case_03' \(test\) are of one patient",
        ),
        ([("case_00", None, "test")], r"the test set: 'case_00' \(test\) and 'case_01' \(others\) are of one patient"),
    ],
)
def test_mistakes_are_one_line(rows: list[tuple[Any, ...]], message: str) -> None:
    with pytest.raises(BadInput, match=message) as raised:
        of_rows(*rows, groups=PAIRS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1", r"a\.json: not valid JSON"),
        ("a.json", "[" * 100_000, r"a\.json: not valid JSON"),
        ("a.json", "[" + "9" * 5000 + "]", r"a\.json: not valid JSON"),
        ("a.json", '{"val": []}', r"a\.json: needs a list, of "),
        ("a.json", "[]", r"a\.json: needs a list, of "),
        ("a.json", "[3]", r"a\.json: row 1 must be of case, fold, role and rank, not 3"),
        ("a.json", '[{"case": "a", "role": "test", "weight": 1}]', r"row 1 must be of case, fold, role and rank"),
        ("a.json", '[{"train": "a", "val": []}]', r"fold 0: train must list names of cases"),
        (
            "a.json",
            '[{"train": ["case_00"], "val": ["case_00"]}]',
            r"'case_00' is listed as labelled and as valid",
        ),
        ("a.csv", "case,rolle\na,test\n", r"a\.csv: there is no column 'rolle'; did you mean 'role'\?"),
        ("a.csv", "case\na\n", r"the first line has to name the columns: case,fold,role,rank"),
        ("a.csv", "case,fold,role\ncase_00,zero,test\n", r"row 1: fold = 'zero' must be a number"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message) as raised:
        read_splits(tmp_path / name, SINGLES)
    assert "\n" not in str(raised.value)


def test_a_fold_or_a_number_that_is_not_there_is_refused() -> None:
    splits = of_rows(("case_00", 0, "labelled"), ("case_01", 0, "validation"))
    with pytest.raises(BadInput, match=r"fold = 1 does not exist: splits\.json has fold 0 alone"):
        splits.split(fold=1, labelled=1, **ANY)
    with pytest.raises(BadInput, match=r"labelled = 2: splits\.json: fold 0 has 1 to 1 training cases"):
        splits.split(fold=0, labelled=2, **ANY)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"case": ' + "1" * 5000 + "}]"])
def test_json_that_python_cannot_hold_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(BadInput, match="not valid JSON"):
        read_splits(tmp_path / "splits.json", {})


def test_a_fold_beyond_all_rows_is_refused_before_that_many_are_made(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text('[{"case": "a", "fold": 2147483648, "role": "labelled"}]')
    with pytest.raises(BadInput, match="fold 2147483648 is the last, in 1 rows; number folds from 0 without a gap"):
        read_splits(tmp_path / "splits.json", {"a": "a"})
