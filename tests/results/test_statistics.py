"""Statistics: against scipy, against values worked out by hand, and on the cases that have none."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.results.tables.statistics import bootstrap, bootstrap_both, compare, holm, sample_sd, wilcoxon


@pytest.mark.parametrize("n", [1, 2, 5, 13, 30, 50, 51, 131])
def test_wilcoxon_is_scipys(n: int) -> None:
    from scipy import stats

    rng = np.random.default_rng(n)
    for shift in (0.0, 0.3, -1.0):
        differences = rng.normal(shift, 1, n)
        assert wilcoxon(differences.tolist()) == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-9)


def test_wilcoxon_beyond_the_exact_range_corrects_for_ties_as_scipy() -> None:
    from scipy import stats

    differences = np.random.default_rng(0).integers(-6, 9, 120) / 100
    how: Any = {"zero_method": "wilcox", "method": "asymptotic"}  # scipy's stubs lack that method
    expected = stats.wilcoxon(differences, correction=False, **how).pvalue
    assert wilcoxon(differences.tolist()) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
@settings(deadline=None)
def test_wilcoxon_with_ties_and_zeros_is_what_all_signs_give(values: list[int]) -> None:
    sizes = sorted(abs(value) for value in values if value)
    if not sizes:
        assert wilcoxon([float(value) for value in values]) == 1.0
        return
    rank = {size: np.mean([i + 1 for i, other in enumerate(sizes) if other == size]) for size in sizes}
    sums = [
        sum(rank[size] for size, positive in zip(sizes, signs, strict=True) if positive)
        for signs in itertools.product((0, 1), repeat=len(sizes))
    ]
    found = sum(rank[value] for value in values if value > 0)
    tails = np.mean([one <= found + 1e-9 for one in sums]), np.mean([one >= found - 1e-9 for one in sums])
    assert wilcoxon([value / 10 for value in values]) == pytest.approx(min(1.0, 2 * min(tails)))


def test_five_folds_cannot_be_significant_and_no_difference_has_p_1() -> None:
    assert wilcoxon([0.01, 0.02, 0.03, 0.04, 0.05]) == 2 / 2**5
    assert wilcoxon([0.0, 0.0, 0.0]) == 1.0
    assert wilcoxon([0.3 - 0.2 - 0.1, 0.1 + 0.2 - 0.3]) == 1.0  # rounding errors are zeros


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_and_keeps_their_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(after >= before and after <= 1 for before, after in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_the_bootstrap_interval_is_scipys_percentile_interval() -> None:
    from scipy import stats

    values = np.random.default_rng(0).normal(0.8, 0.1, 40)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    assert bootstrap(values.tolist(), [1] * 40) == pytest.approx(tuple(expected), abs=0.002)
    assert bootstrap(values.tolist(), [1] * 40) == bootstrap(values.tolist(), [1] * 40)


def test_the_bootstrap_of_two_units_has_three_outcomes() -> None:
    assert bootstrap([0.0, 1.0], [1, 1]) == (0.0, 1.0)
    assert bootstrap([0.0, 3.0], [1, 3]) == (0.0, 1.0)
    assert bootstrap([0.5], [1]) is None


def test_the_bootstrap_of_folds_and_cases_is_each_ones_own_where_the_other_makes_no_difference() -> None:
    folds, cases = [0.01, -0.02, 0.03, 0.0, 0.05], np.random.default_rng(0).normal(0.02, 0.05, 40).tolist()
    by_fold = bootstrap_both({(fold, case): [one] for fold, one in enumerate(folds) for case in range(40)})
    assert by_fold == pytest.approx(bootstrap(folds, [1] * 5))
    by_case = bootstrap_both({(fold, case): [one] for fold in range(5) for case, one in enumerate(cases)})
    assert by_case == pytest.approx(bootstrap(cases, [1] * 40), abs=0.002)  # other draws


def test_the_bootstrap_of_folds_and_cases_by_hand() -> None:
    # Only (1, "b") differs: its mean is 4 w v / 4 with weights w, v of 0, 1 or 2, and 4 in one of 16 samples.
    values = {(0, "a"): [0.0], (0, "b"): [0.0], (1, "a"): [0.0], (1, "b"): [4.0]}
    assert bootstrap_both(values) == (0.0, 4.0)
    assert bootstrap_both(values, level=0.8) == (0.0, 2.0)
    assert bootstrap_both({(0, "a"): [1.0], (0, "b"): [2.0]}) is None
    assert bootstrap_both({(0, "a"): [1.0], (1, "a"): [2.0]}) is None
    nested = bootstrap_both({(0, "a"): [1.0], (0, "b"): [1.0], (1, "c"): [3.0]})  # some samples are empty
    assert nested == (1.0, 3.0)


def test_units_count_as_a_whole_however_many_differences_they_have() -> None:
    one = compare([[0.1], [0.3, 0.5]])
    assert (one.units, one.mean, one.sd) == (2, pytest.approx(0.25), pytest.approx(0.3 / 2**0.5))
    assert one.interval == pytest.approx((0.1, 0.4))
    assert one.p == 0.5
    single = compare([[0.2]])
    assert (single.sd, single.interval, single.p) == (None, None, 1.0)


def test_the_intervals_width_follows_the_number_of_cases_not_of_repeated_measurements() -> None:
    cases = np.random.default_rng(0).normal(0, 1, 30)
    once = compare([[value] for value in cases]).interval
    often = compare([[value] * 5 for value in cases]).interval
    assert once == pytest.approx(often)


def test_the_sample_sd_divides_by_n_minus_1() -> None:
    assert sample_sd([1.0, 2.0, 3.0]) == 1.0
    assert sample_sd([1.0]) is None


def test_no_statistics_package_is_imported_for_it() -> None:
    import subprocess

    code = "import sys, hpcseg.results.tables.tables; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
