from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hpcseg.commands.models import rehearse
from hpcseg.errors import BadInput
from hpcseg.runs.selection import path_or_run, select_run, select_runs
from hpcseg.study.plan import Plan
from hpcseg.submit.actions import cancel, retry
from tests.commandline import call


def test_runs_are_chosen_by_sweep_pattern_or_beginning(plan: Plan) -> None:
    root = plan.runs_root
    assert [run.id for run in select_runs(root, "study")] == list(plan.stages)
    assert len(select_runs(root, "baseline-n2-f?-*")) == 2
    assert len(select_runs(root, "baseline-n2-f0")) == 1
    with pytest.raises(BadInput, match=r"no run or sweep in .* matches 'x'"):
        select_runs(root, "x")


def test_one_run_is_chosen_by_the_beginning_of_its_id(plan: Plan) -> None:
    pack, first, _ = plan.stages
    assert select_run(plan.runs_root, first[:-3]).id == first
    assert select_run(plan.runs_root, pack).id == pack
    with pytest.raises(BadInput, match="2 runs match 'baseline'; give more of the id"):
        select_run(plan.runs_root, "baseline")


def test_a_run_is_chosen_by_its_directory_wherever_it_is(plan: Plan) -> None:
    run = plan.run(next(iter(plan.stages)))
    assert select_run(plan.runs_root / "elsewhere", str(run.path)).path == run.path


def test_a_run_is_named_where_no_such_file_is(plan: Plan, tmp_path: Path) -> None:
    pack, first, _ = plan.stages
    assert path_or_run(plan.runs_root, Path(first[:-3])) == plan.run(first).path
    assert path_or_run(plan.runs_root, tmp_path) == tmp_path
    assert path_or_run(plan.runs_root, Path("no/model.pt")) == Path("no/model.pt")
    for name, says in (("x", "matches 'x'; hpcseg status --runs"), ("baseline", "2 runs match")):
        with pytest.raises(BadInput, match=f"^{name}: no such file or folder, and as a run: .*{says}"):
            path_or_run(plan.runs_root, Path(name))
    done = call(tmp_path, "inspect", pack[:-3], "--runs", plan.runs_root, "--json")
    assert json.loads(done.stdout)["id"] == pack


def test_rehearse_takes_an_id_that_begins_another(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan.run(next(iter(plan.of_stage("train"))))
    shutil.copytree(run.path, run.path.with_name(f"{run.id}-again"))
    rehearsed: list[Path] = []

    def stop(path: Path, **_: object) -> None:
        rehearsed.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcseg.training.rehearsal.rehearse", stop)
    with pytest.raises(KeyboardInterrupt):
        rehearse(run.id, 1, 1, 1, 0, 1, plan.runs_root)
    assert rehearsed == [run.path]


@pytest.mark.parametrize("pattern", ["", "  ", "\n"])
def test_an_empty_pattern_matches_nothing(plan: Plan, pattern: str) -> None:
    for choose in (select_runs, select_run):
        with pytest.raises(BadInput, match="matches every run"):
            choose(plan.runs_root, pattern)
    with pytest.raises(BadInput, match="matches every run"):
        cancel(plan.runs_root, pattern)
    with pytest.raises(BadInput, match="matches every run"):
        retry(plan.runs_root, pattern)
