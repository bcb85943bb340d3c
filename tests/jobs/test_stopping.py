from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.jobs import stopping
from hpcseg.jobs.stopping import lead_s, watched
from hpcseg.training.control import Control

seconds = st.floats(0, 1e6)


def test_the_lead_follows_what_was_measured() -> None:
    assert lead_s(0.1, 0.5, 3600.0) == 30.0
    assert lead_s(60.0, 5.0, 3600.0) == 200.0
    assert lead_s(600.0, 5.0, 3600.0) == 1800.0


@given(seconds, seconds, seconds)
def test_a_job_may_always_use_half_of_its_time(save: float, step: float, whole: float) -> None:
    assert 0 <= lead_s(save, step, whole) <= whole / 2
    assert lead_s(save, step, whole) <= lead_s(save + 1, step + 1, whole)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "POLL_S", 0.001)


def test_a_job_is_asked_to_stop_before_its_end(tmp_path: Path) -> None:
    control, times = Control(tmp_path), iter([0.0, *range(1, 10_000)])
    control.saved(20.0, 1)  # a lead of 70 s
    with watched(control, 200.0, lambda: True, lambda: float(next(times))) as why:
        while not control.should_stop():
            pass
    assert why == ["limit"] and 130 <= next(times) <= 140


def test_a_job_that_was_given_more_time_meanwhile_goes_on(tmp_path: Path) -> None:
    control, times, asked = Control(tmp_path), iter([0.0, *range(1, 10_000)]), iter([500.0, None, None])
    control.saved(20.0, 1)  # a lead of 70 s
    with watched(control, 200.0, lambda: True, lambda: float(next(times)), lambda: next(asked)) as why:
        while not control.should_stop():
            pass
    assert why == ["limit"] and 425 <= next(times) <= 445


def test_a_job_stops_when_another_attempt_wants_its_run(tmp_path: Path) -> None:
    control, asked = Control(tmp_path), iter([True, True, False])
    with watched(control, None, lambda: next(asked)) as why:
        while not control.should_stop():
            pass
    assert why == ["superseded"]


def test_a_job_without_a_limit_is_left_alone(tmp_path: Path) -> None:
    control = Control(tmp_path)
    with watched(control, None, lambda: True) as why:
        pass
    assert why == [] and not control.should_stop()
