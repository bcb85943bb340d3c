"""The runs of a sweep as a report lists them, and the circumstances of its results."""

from __future__ import annotations

from dataclasses import replace

from hpcseg.config import RunConfig
from hpcseg.results.page.circumstances import settings
from hpcseg.results.page.ledger import Entry, add_costs, grouped, lasted
from hpcseg.runs.attempts import Attempt, Cause

ENTRY = Entry("run", "train", "transfer", {}, "done", "", "", 10, 8, 2.0, 4.0, 0.5, (), "gpu01", {}, "")
ATTEMPT = Attempt(number=1, job="1_0", node="gpu01", began=0.0)


def test_costs_are_added_up_by_kind_of_work_in_the_order_of_the_stages() -> None:
    entries = [
        replace(ENTRY, strategy="multitask"),
        replace(ENTRY, gpu_hours=6.0, needs=("pack", "level0")),
        replace(ENTRY, needs=("pack", "level0")),
        replace(ENTRY, id="level0", stage="pretrain", strategy="", gpu_hours=3.0, hours=None),
        replace(ENTRY, stage="pack", strategy="", gpu_hours=0.0),
    ]
    costs = add_costs(entries)
    assert [cost.name for cost in costs] == ["Packing", "Pretraining", "Training: S-TL", "Training: S-MTL"]
    assert (costs[2].runs, costs[2].gpu_hours, costs[2].gpu_hours_lost, costs[2].hours) == (2, 10.0, 1.0, 4.0)
    assert costs[2].per_folds == 5 * (10 + 3) / 2  # with the pretraining
    assert costs[3].per_folds == 5 * 4
    assert costs[1].per_folds is None


def test_runs_are_grouped_by_all_axes_but_those_of_most_values() -> None:
    runs = [
        replace(ENTRY, axes={"labelled": n, "seed": seed}, dsc={"test": seed / 4}, hours=None)
        for n in (2, "all")
        for seed in range(3)
    ]
    entries = [replace(ENTRY, stage="pack"), *runs[1:], replace(runs[0], state="failed", dsc={})]
    assert len(grouped(entries, 7)) == 7
    packing, two, every = grouped(entries, 6)
    assert (packing.stage, packing.axes, packing.hours) == ("pack", {}, 2.0)
    assert (two.axes, every.axes) == ({"labelled": 2}, {"labelled": "all"})
    assert (two.states, two.dsc, two.hours) == ("done 2, failed 1", {"test": 0.375}, None)
    assert [len(group.entries) for group in grouped(entries, 1)] == [1, 6]


def test_five_runs_are_not_told_before_all_are_done() -> None:
    assert add_costs([ENTRY, replace(ENTRY, state="running", gpu_hours=1.0)])[0].per_folds is None


def test_ends_of_attempts_are_counted() -> None:
    causes: tuple[Cause | None, ...] = ("preempted", "preempted", "done", None)
    entry = replace(ENTRY, attempts=tuple(replace(ATTEMPT, cause=cause) for cause in causes))
    assert entry.ends == "preempted × 2, done, open"


def test_hours_are_told_in_the_unit_that_fits() -> None:
    assert [lasted(hours) for hours in (None, 0.01, 0.5, 2.25, 2835)] == ["", "36 s", "30 min", "2.2 h", "2,835.0 h"]


def test_settings_tell_values_with_their_runs_and_defaults() -> None:
    config = RunConfig().model_dump(mode="json")
    configs = [config | {"fold": fold, "patches": config["patches"] | {"size": 48}} for fold in (0, 1, 1)]
    found = {setting.key: setting for setting in settings(configs)}
    assert [key for key, setting in found.items() if setting.varies] == ["fold"]
    assert found["fold"].values == (("0", 1), ("1", 2))
    assert [key for key, setting in found.items() if setting.changed] == ["fold", "patches.size"]
    assert found["patches.size"].default == "72"
