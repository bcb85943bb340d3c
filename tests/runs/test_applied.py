from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.files import write_json
from hpcseg.results.collect import collect
from hpcseg.runs.applied import applied_sweeps, described, mark_cancelled, read_runs, read_sweep_record
from hpcseg.runs.locks import locked
from hpcseg.seals import read_sealed
from hpcseg.study.plan import Plan
from hpcseg.submit.record import record

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
Planner = Callable[..., Plan]


def config_of(plan: Plan, run_id: str) -> Any:
    config = plan.stages[run_id].config
    assert config is not None
    return config.model_dump(mode="json")


def test_the_record_gives_back_every_configuration_and_cell(plan_study: Planner) -> None:
    plan = plan_study("strategy=[baseline, transfer]", "labelled=[1, 2]", "network.maps=[2, [2, 3]]", "seed=[0, 7]")
    record(plan)
    runs = read_runs(plan.runs_root, "study")
    assert [run["id"] for run in runs] == list(plan.of_stage("train"))
    assert len(runs) == 16
    for run in runs:
        assert run["config"] == config_of(plan, run["id"])
        assert run["cells"] == plan.cells[run["id"]]
    value = read_sweep_record(plan.runs_root, "study")
    counts = {stage: len(ids) for stage, ids in value["stages"].items()}
    assert counts == {"pack": 1, "pretrain": 8, "label": 0, "train": 16}
    assert value["needs"] == {run_id: list(planned.needs) for run_id, planned in plan.stages.items()}
    assert (plan.runs_root / "sweeps" / "study" / "study.toml").read_text() == STUDY
    assert applied_sweeps(plan.runs_root) == ["study"]


def test_a_sweep_that_is_applied_while_it_is_cancelled_is_not_lost(plan_study: Planner) -> None:
    first, second = plan_study("labelled=1"), plan_study("labelled=2")
    record(first)
    begun = threading.Event()

    def apply_again() -> None:
        with locked(second.runs_root):
            begun.set()
            time.sleep(0.2)  # in which the other reads, unless it waits
            record(second)

    other = threading.Thread(target=apply_again)
    other.start()
    begun.wait()
    mark_cancelled(first.runs_root, "study")
    other.join()
    value = read_sweep_record(second.runs_root, "study")
    assert value["stages"]["train"] == list(second.of_stage("train"))
    assert "cancelled" in value


def test_what_was_read_can_be_written_again(plan_study: Planner) -> None:
    plan = plan_study("strategy=[baseline, transfer]", "labelled=[1, 2]", "network.maps=[2, [2, 3]]")
    record(plan)
    runs = read_runs(plan.runs_root, "study")
    made = described(runs)
    assert "transfer" not in made["base"]
    write_json(plan.runs_root / "sweeps" / "study" / "runs.json", made)
    assert read_runs(plan.runs_root, "study") == runs
    assert described([]) == {"base": {}, "runs": []}


def test_many_runs_take_little_room(plan_study: Planner) -> None:
    plan = plan_study("labelled=[1, 2]", f"seed={list(range(200))}")
    record(plan)
    folder = plan.runs_root / "sweeps" / "study"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400 * 400


def test_collect_reads_the_record(plan_study: Planner) -> None:
    plan = plan_study("labelled=[1, 2]", "seed=[0, 1]")
    record(plan)
    collection = collect(plan.runs_root)
    assert collection.missing == tuple(plan.of_stage("train"))
    for run in collection.runs:
        assert run.config == config_of(plan, run.id)
        (place,) = run.places
        assert run.axis(place, "seed") == plan.stages[run.id].config.seed
        assert run.axis(place, "training.epochs") == 2


def test_a_damaged_list_of_runs_is_one_line_that_names_it(plan_study: Planner) -> None:
    plan = plan_study()
    record(plan)
    (plan.runs_root / "sweeps" / "study" / "runs.json").write_text('{"runs": [{}]}')
    with pytest.raises(BadInput, match=r"runs\.json: not a record of runs"):
        read_runs(plan.runs_root, "study")
    (plan.runs_root / "sweeps" / "study" / "runs.json").unlink()
    with pytest.raises(BadInput, match=r"runs\.json: no such file; apply the sweep again"):
        read_runs(plan.runs_root, "study")


@pytest.mark.parametrize(
    "change", [{"stages": {"train": ["../../x"]}}, {"needs": {"a": ["b/c"]}}, {"stages": [1]}, {"needs": {"a": [3]}}]
)
def test_ids_that_are_none_are_refused(plan_study: Planner, change: dict[str, Any]) -> None:
    plan = plan_study()
    record(plan)
    path = plan.runs_root / "sweeps" / "study" / "sweep.json"
    write_json(path, read_sealed(path) | change)
    with pytest.raises(BadInput, match=r"sweep\.json: not the record of a sweep"):
        read_sweep_record(plan.runs_root, "study")


def test_runs_that_need_each_other_are_refused(plan_study: Planner) -> None:
    plan = plan_study()
    record(plan)
    path = plan.runs_root / "sweeps" / "study" / "sweep.json"
    write_json(path, read_sealed(path) | {"needs": {"a": ["b"], "b": ["a"]}})
    with pytest.raises(BadInput, match=r"sweep\.json: not the record of a sweep \(.*cycle"):
        read_sweep_record(plan.runs_root, "study")
