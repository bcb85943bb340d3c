"""Outliers that are made on purpose are named, in one note each; harmless variety gives none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.inspection.cohort import Finding, cohort_findings, likeness_findings, outliers
from hpcseg.inspection.facts import CaseFacts
from hpcseg.inspection.likeness import Likeness

LABELS = {0: "background", 1: "liver", 2: "tumour"}


def case(n: int, **changes: object) -> CaseFacts:
    """An inconspicuous CT that differs a little from the others."""
    wiggle = n % 5
    facts = CaseFacts(
        name=f"case_{n:02d}",
        part="training",
        shape_zyx=(100 + 3 * wiggle, 512, 512),
        spacing_zyx=(2.0, 0.7 + 0.01 * wiggle, 0.7 + 0.01 * wiggle),
        orientation="LPS",
        oblique_deg=0.0,
        dtype="int16",
        low=-1024.0,
        high=1500.0 + wiggle,
        percentiles=(-1000.0, -100.0 + 10 * wiggle, 400.0 + 10 * wiggle),
        at_maximum=1e-6,
        labels={0: 20_000_000, 1: 1_500_000 + 50_000 * wiggle, 2: 3_000 + 1_000 * wiggle},
        under_label=(0.0, 100.0 + 4 * wiggle, 200.0),
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def notes(*odd: CaseFacts, n: int = 20, is_ct: bool = True) -> list[Finding]:
    return cohort_findings([*map(case, range(n)), *odd], is_ct=is_ct, labels=LABELS)


def test_an_inconspicuous_cohort_gives_no_note() -> None:
    assert notes() == []
    assert notes(is_ct=False) == []
    assert cohort_findings([], is_ct=True, labels=LABELS) == []


@pytest.mark.parametrize(
    ("changes", "remark", "says"),
    [
        ({"low": 7.0, "high": 7.0, "percentiles": (7.0, 7.0, 7.0)}, "constant", "odd (7)"),
        ({"low": 0.0, "percentiles": (24.0, 924.0, 1424.0)}, "not HU?", "odd (from 0)"),
        ({"percentiles": (-1000.0, 924.0, 1424.0)}, "intensities", "odd (924, 1424, max 1500)"),
        ({"at_maximum": 0.02}, "clipped", "odd (2.0% at 1500)"),
        ({"spacing_zyx": (2.0, 0.07, 0.07)}, "spacing", "odd (2 × 0.07 × 0.07)"),
        ({"spacing_zyx": (1.0, 1.0, 1.0)}, "spacing", "lost header?"),
        ({"shape_zyx": (900, 512, 512)}, "extent", "odd (1.8e+03 × 358 × 358)"),
        ({"shape_zyx": (1, 512, 512)}, "thin", "odd (1 × 512 × 512)"),
        ({"oblique_deg": 30.0}, "oblique", "odd (30°)"),
        ({"orientation": "RAS"}, "orientation", "LPS 20, RAS 1): odd (RAS)"),
        ({"labels": {0: 9, 1: 1_500_000}}, "label missing", "label 2 (tumour) is missing: odd"),
        ({"labels": {0: 9, 1: 1_500, 2: 3_000}}, "label volume", "label 1 (liver)"),
        ({"labels": {0: 9, 1: 1_500_000, 2: 4}}, "speck", "label 2 (tumour) has fewer than 10 voxels: odd"),
        ({"under_label": (-1000.0, -800.0, 0.0)}, "label fit?", "odd (median -800)"),
        ({"label_at_edge": True}, "label cut", "odd"),
    ],
)
def test_one_odd_case_is_named(changes: dict[str, object], remark: str, says: str) -> None:
    found = [note for note in notes(case(0, name="odd", **changes)) if note.remark == remark]
    assert [note.cases for note in found][:1] == [("odd",)]
    assert any(says in note.text for note in found)


def test_mr_is_compared_without_its_scale() -> None:
    def scaled(n: int, factor: float) -> CaseFacts:
        low, middle, high = (0.0, 500.0 + 5 * (n % 5), 1000.0)
        values = (factor * low, factor * middle, factor * high)
        return case(n, low=0.0, high=factor * 2500, percentiles=values, under_label=values)

    cohort = [scaled(n, 10.0 ** (n % 5 - 1)) for n in range(20)]
    assert cohort_findings(cohort, is_ct=False, labels=LABELS) == []
    spike = case(0, name="odd", low=0.0, high=1e7, percentiles=(0.0, 500.0, 1000.0), under_label=(0.0, 500.0, 1000.0))
    (note,) = cohort_findings([*cohort, spike], is_ct=False, labels=LABELS)
    assert (note.cases, note.remark) == (("odd",), "intensities")


def test_a_label_that_never_occurs() -> None:
    (note,) = cohort_findings([case(n) for n in range(3)], is_ct=True, labels=LABELS | {3: "spleen"})
    assert note == Finding("label 3 (spleen) of dataset.json never occurs", (), "")


def test_many_odd_cases_are_one_note_of_five_names() -> None:
    (note,) = notes(*(case(n, name=f"odd_{n}", at_maximum=0.1) for n in range(7)))
    assert note.text.endswith("odd_4 (10.0% at 1504) and 2 more")
    assert len(note.cases) == 7


def test_few_cases_have_no_outliers() -> None:
    assert not outliers([1, 1, 1, 1, 1, 1, 1000], 0.1).any()
    assert outliers([1, 1, 1, 1, 1, 1, 1, 1000], 0.1).tolist() == [False] * 7 + [True]
    assert outliers([], 0.1).shape == (0,)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_what_differs_less_than_the_floor_allows_is_no_outlier(values: list[float]) -> None:
    assert not outliers(values, 1.0).any()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 100), st.floats(-100, 100))
def test_outliers_do_not_depend_on_unit_and_zero(seed: int, factor: float, offset: float) -> None:
    values = np.random.default_rng(seed).standard_cauchy((40, 2))
    np.testing.assert_array_equal(outliers(values * factor + offset, 1e-9), outliers(values, 1e-9))


def test_a_leak_comes_first_and_by_name() -> None:
    cases = [case(0, label_digest="one"), case(1, label_digest="other"), case(2, part="test", labels=None)]
    leak, same = likeness_findings(cases, [Likeness("identical", (0, 1, 2))])
    assert leak.text == (
        "leak: training and test share voxels: case_00 (training) = case_01 (training) = case_02 (test); "
        "take them out of one of the two"
    )
    assert same.text.startswith("identical voxels: case_00 + case_01 + case_02 (with labels that differ: case_00)")
    assert {leak.remark, same.remark} == {"leak", "duplicate"}


def test_likely_sets_are_one_note_each_kind() -> None:
    cases = [case(n, part="test" if n == 1 else "training") for n in range(30)]
    sets = [Likeness("one scan", (n, n + 1), 5.1) for n in range(0, 20, 2)] + [Likeness("resaved", (20, 25), 0.999)]
    resaved, cut = likeness_findings(cases, sets)
    assert "saved twice" in resaved.text
    assert "case_20 + case_25" in resaved.text
    assert "and 5 more (10 sets, 20 cases; --json lists them) (1 with training and test cases)" in cut.text
    assert cut.cases[:4] == ("case_00", "case_01", "case_02", "case_03")
    assert cut.remark == "likely one scan"
