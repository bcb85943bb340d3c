from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcseg.config import RunConfig
from hpcseg.runs.rundir import RunDir
from hpcseg.study.forecast import Epochs, Kind, Measured, epochs_done, forecast, kind_of, measure

A, B = ("train", "a"), ("train", "b")


def config(**values: Any) -> RunConfig:
    return RunConfig.model_validate(values)


@pytest.mark.parametrize(
    ("stage", "strategy", "change", "siblings"),
    [
        ("train", "baseline", {"fold": 1, "seed": 3, "labelled": 4}, True),
        ("train", "baseline", {"training": {"learning_rate": 1e-4, "epochs": 7}}, True),
        ("train", "baseline", {"data": {"dataset": "D"}, "preprocessing": {"intensity": "window"}}, True),
        ("train", "baseline", {"autoencoder": {"winners": 9}, "multitask": {"levels": 1}}, True),
        ("train", "transfer", {"transfer": {"phi": 2.0, "fine_tune_rate": 1e-3}}, True),
        ("train", "baseline", {"training": {"steps": 3}}, False),
        ("train", "baseline", {"training": {"batch": 4}}, False),
        ("train", "baseline", {"training": {"precision": "float32"}}, False),
        ("train", "baseline", {"network": {"maps": 16}}, False),
        ("train", "baseline", {"patches": {"size": 48}}, False),
        ("train", "baseline", {"augmentation": {"enabled": True}}, False),
        ("train", "transfer", {"transfer": {"scheme": "freeze_all"}}, False),
        ("train", "multitask", {"multitask": {"levels": 1}}, False),
        ("train", "multitask", {"autoencoder": {"winners": 9}}, False),
        ("pretrain", "transfer", {"training": {"steps": 3, "batch": 1}}, True),
        ("pretrain", "transfer", {"autoencoder": {"epochs": 3}}, True),
        ("pretrain", "transfer", {"autoencoder": {"steps": 3}}, False),
        ("pretrain", "transfer", {"training": {"precision": "float32"}}, False),
    ],
)
def test_siblings_do_the_same_work_per_epoch(stage: str, strategy: str, change: dict[str, Any], siblings: bool) -> None:
    one, other = config(strategy=strategy), config(strategy=strategy, **change)
    assert (kind_of(stage, one, 0) == kind_of(stage, other, 0)) is siblings


def test_strategies_stages_and_levels_are_no_siblings() -> None:
    plain, transfer = config(), config(strategy="transfer")
    kinds = [kind_of("train", plain), kind_of("train", transfer)]
    kinds += [kind_of("pretrain", transfer, level) for level in (0, 1)]
    assert len(set(kinds)) == 4


def test_hours_are_epochs_times_what_siblings_took() -> None:
    cost = forecast([Epochs("train", A, 100), Epochs("train", A, 100, done=60.0)], {A: [Measured(36.0, device="cuda")]})
    assert cost.hours == pytest.approx(1.0 + 0.4)
    assert (cost.known, cost.unknown, cost.unit) == (2, 0, "GPU hours")
    assert cost.stages["train"].longest == pytest.approx(1.0)


def test_early_ends_of_siblings_shorten_what_is_expected() -> None:
    seen: dict[Kind, list[Measured]] = {A: [Measured(36.0, share=0.5), Measured(36.0, share=0.3), Measured(36.0)]}
    assert forecast([Epochs("train", A, 100)], seen).hours == pytest.approx(0.4)
    assert forecast([Epochs("train", A, 100, done=70)], seen).hours == 0.0


def test_runs_without_siblings_are_unknown_and_cost_nothing() -> None:
    cost = forecast([Epochs("train", A, 1), Epochs("train", B, 10), Epochs("pretrain", B, 10)], {B: [Measured(360.0)]})
    assert (cost.known, cost.unknown) == (2, 1)
    assert cost.hours == pytest.approx(2.0)
    assert cost.as_json()["stages"]["train"] == {"hours": 1.0, "known": 1, "unknown": 1}


def test_nothing_to_do_costs_nothing() -> None:
    assert forecast([], {}).as_json() == {"hours": 0, "unit": "GPU hours", "unknown": 0, "stages": {}}


def test_time_is_bounded_by_the_longest_run_and_by_what_runs_at_once() -> None:
    cost = forecast([Epochs("train", A, 100), Epochs("train", A, 300)], {A: [Measured(36.0)]})
    stage = cost.stages["train"]
    assert stage.wall_hours(1) == pytest.approx(4.0)
    assert stage.wall_hours(8) == pytest.approx(3.0)
    assert stage.wall_hours(8, ranks=2) == pytest.approx(1.5)


def test_what_was_measured_on_cpus_only_is_no_gpu_hour() -> None:
    cost = forecast([Epochs("train", A, 1)], {A: [Measured(1.0, device="cpu")]})
    assert cost.unit == "process hours on CPUs"
    running = forecast([Epochs("train", A, 1)], {A: [Measured(1.0)]})
    assert running.unit == "process hours", "no run that has ended says on what"


def run_with(tmp_path: Path, **files: Any) -> RunDir:
    folder = tmp_path / "runs" / "train" / "r"
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return RunDir(folder)


HEARTBEAT = {
    "state": "running",
    "phase": "training",
    "step": 150,
    "steps": 1500,
    "epoch": 11,
    "loss": 0.5,
    "eta_s": 2700.0,
    "time": 1.0,
    "host": "elsewhere",
    "pid": 1,
    "pid_start": 1.0,
    "attempt": 1,
}


def test_a_trained_run_says_what_it_took(tmp_path: Path) -> None:
    training = {"epochs": 40, "seconds": 200.0, "rank_seconds": 400.0, "precision": {"device": "cuda"}}
    assert measure(run_with(tmp_path, training=training), 100) == Measured(10.0, 0.4, "cuda")


def test_a_running_one_says_what_is_left(tmp_path: Path) -> None:
    job = {"backend": "slurm", "submitted": 1.0, "ranks": 4}
    run = run_with(tmp_path, heartbeat=HEARTBEAT, job=job)
    measured = measure(run, 100)
    assert measured is not None and measured.share is None
    assert measured.epoch_s == pytest.approx(2.0 * 15 * 4)  # 2 s a step, 15 steps an epoch
    assert epochs_done(run) == 10.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"heartbeat": {**HEARTBEAT, "phase": "reading"}},
        {"heartbeat": {**HEARTBEAT, "eta_s": None}},
        {"heartbeat": {**HEARTBEAT, "step": 1500}},
        {"training": {"epochs": 0, "rank_seconds": 1.0, "precision": {"device": "cpu"}}},
        {"training": "{"},
        {"training": "{}"},
    ],
)
def test_what_cannot_be_measured_is_not(tmp_path: Path, files: dict[str, Any]) -> None:
    assert measure(run_with(tmp_path, **files), 100) is None
