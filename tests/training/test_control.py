from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, Interrupted
from hpcseg.heartbeat import Heartbeat, read_heartbeat
from hpcseg.training import control as control_module
from hpcseg.training.control import Control
from tests.waiting import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(control_module, "time", clock)
    return clock


def beat_of(run: Path) -> Heartbeat:
    heartbeat = read_heartbeat(run)
    assert heartbeat is not None
    return heartbeat


def test_a_new_phase_is_written_at_once_and_other_news_are_rate_limited(tmp_path: Path) -> None:
    control = Control(tmp_path, interval_s=60.0)
    control.beat(phase="reading")
    control.beat(phase="training", step=1, steps=10, epoch=1, loss=0.5)
    control.beat(phase="training", step=2, steps=10, epoch=1, loss=0.4)
    heartbeat = beat_of(tmp_path)
    assert (heartbeat.phase, heartbeat.step, heartbeat.loss, heartbeat.eta_s) == ("training", 1, 0.5, None)
    assert heartbeat.alive and heartbeat.attempt == 1


def test_the_time_left_counts_from_the_first_step_of_this_process(tmp_path: Path, clock: Clock) -> None:
    control = Control(tmp_path, interval_s=0.0)
    control.beat(phase="training", step=100, steps=110)  # resumed at step 100
    clock.now += 20.0
    control.beat(phase="training", step=105, steps=110)
    assert beat_of(tmp_path).eta_s == 20.0


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    Control(tmp_path).beat(phase="training", loss=float("nan"))
    assert beat_of(tmp_path).loss is None


def test_closing_keeps_what_was_known(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control.beat(phase="training", step=1, steps=10, epoch=1, loss=0.5)
    control.close("stopped")
    heartbeat = beat_of(tmp_path)
    assert (heartbeat.state, heartbeat.step, heartbeat.loss) == ("stopped", 1, 0.5)
    assert Control(tmp_path).attempt == 2


def test_what_saving_costs_is_the_longest_the_last_the_largest_and_goes_on_in_the_next_attempt(
    tmp_path: Path, clock: Clock
) -> None:
    control = Control(tmp_path)
    assert control.checkpoint is None
    control.beat(phase="training")
    for seconds, size in ((0.5, 100), (2.0, 90), (1.0, 80)):
        control.saved(seconds, size)
    control.close("stopped")
    costs = {"saves": 3, "seconds": 2.0, "last_seconds": 1.0, "bytes": 100}
    found = beat_of(tmp_path).checkpoint
    assert found == {**costs, "time": clock.now}
    following = Control(tmp_path)
    assert following.checkpoint == found
    following.saved(3.0, 70)
    assert following.checkpoint is not None
    assert following.checkpoint.items() >= {"saves": 4, "seconds": 3.0, "last_seconds": 3.0, "bytes": 100}.items()


def test_progress_is_what_is_kept_and_goes_on_in_the_next_attempt(tmp_path: Path) -> None:
    control = Control(tmp_path, interval_s=60.0)
    control.beat(phase="training", step=1)
    assert (control.progress, control.progress_time) == (0, None)
    control.reached(5)
    control.beat(phase="training", step=6)  # written at once: what is kept is news
    assert beat_of(tmp_path).progress == 5
    following = Control(tmp_path)
    following.reached(3)
    assert (following.progress, following.progress_time) == (5, None)
    following.reached(6)
    assert following.progress == 6 and following.progress_time is not None
    following.begin_anew()
    following.reached(1)
    assert following.progress == 1 and following.progress_time is not None


def test_the_longest_step_is_measured_within_a_phase(tmp_path: Path, clock: Clock) -> None:
    control = Control(tmp_path)
    control.beat(phase="reading")
    for step, seconds in enumerate((20.0, 5.0, 1.0), start=1):
        clock.now += seconds
        control.beat(phase="training", step=step)
    assert control.longest_step_s == 5.0


def test_a_pulse_is_a_sign_of_life_and_no_step(tmp_path: Path, clock: Clock) -> None:
    control = Control(tmp_path, interval_s=0.0)
    control.pulse()
    assert read_heartbeat(tmp_path) is None
    control.beat(phase="evaluating", step=2, steps=5)
    before = beat_of(tmp_path)
    clock.now += 10.0
    control.pulse()
    after = beat_of(tmp_path)
    assert after.time == before.time + 10.0 and (after.step, after.phase) == (2, "evaluating")
    assert control.longest_step_s == 0.0


def test_a_heartbeat_that_cannot_be_written_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Control(tmp_path, interval_s=0.0)
    control.beat(phase="training", step=1)
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"1"))
        control.beat(phase="training", step=2)
    assert "cannot be written" in capsys.readouterr().err and beat_of(tmp_path).step == 1
    control.beat(phase="training", step=3)
    assert beat_of(tmp_path).step == 3 and not list(tmp_path.glob(".*"))


def test_a_request_to_stop_is_a_flag(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control.stop_here()
    assert not control.should_stop()
    control.ask_to_stop()
    assert control.should_stop()
    with pytest.raises(Interrupted, match="the same command goes on"):
        control.stop_here()


def test_listeners_hear_what_is_written(tmp_path: Path) -> None:
    heard: list[str] = []
    control = Control(tmp_path, on_beat=lambda heartbeat: heard.append(heartbeat.phase))
    control.beat(phase="a")
    control.beat(phase="a", step=1)
    control.beat(phase="b")
    assert heard == ["a", "b"]


def test_no_heartbeat_is_none_and_a_foreign_file_is_named(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path) is None
    (tmp_path / "heartbeat.json").touch()
    assert read_heartbeat(tmp_path) is None
    (tmp_path / "heartbeat.json").write_text('{"x": 1}')
    with pytest.raises(BadInput, match=r"heartbeat\.json: not a heartbeat"):
        read_heartbeat(tmp_path)
