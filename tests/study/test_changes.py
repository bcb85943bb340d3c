from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.changes import Difference
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import record

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
Planner = Callable[..., Plan]


def test_a_plan_without_a_record_has_no_changes(plan_study: Planner) -> None:
    changes = plan_study().changes
    assert (changes.applied, changes.changed, changes.orphaned, changes.left_out) == ("", {}, {}, ())


def test_the_same_sweep_again_changes_nothing(plan_study: Planner) -> None:
    record(plan_study("fold=[0, 1]"))
    changes = plan_study("fold=[0, 1]").changes
    assert changes.applied
    assert not changes.changed and not changes.left_out and not any(changes.orphaned.values())


def test_a_changed_key_is_named_and_the_runs_that_stood_there_are_orphaned(plan_study: Planner) -> None:
    before = plan_study("strategy=[baseline, transfer]", "fold=[0, 1]")
    record(before)
    text = STUDY.replace("training.epochs = 2", "training.epochs = 3")
    now = plan_study("strategy=[baseline, transfer]", "fold=[0, 1]", text=text)
    old, new = list(before.of_stage("train")), list(now.of_stage("train"))
    assert now.changes.changed == dict(zip(new, old, strict=True))
    assert now.changes.differences == (Difference("training.epochs", 2, 3, 4),)
    assert now.changes.orphaned == {"pack": (), "pretrain": (), "label": (), "train": tuple(old)}
    assert json.dumps(now.as_json()["changes"])


def test_an_axis_of_one_value_may_come_into_a_grid(plan_study: Planner) -> None:
    before = plan_study("fold=[0, 1]")
    record(before)
    now = plan_study("fold=[0, 1]", text=f"{STUDY}training.epochs = 3\n")
    assert now.changes.changed == dict(zip(now.of_stage("train"), before.of_stage("train"), strict=True))


def test_runs_that_the_shared_axes_do_not_tell_apart_are_new(plan_study: Planner) -> None:
    record(plan_study("fold=[0, 1]"))
    now = plan_study("training.epochs=3", text=STUDY.replace("fold = [0]", ""))
    assert not now.changes.changed and len(now.changes.left_out) == 2


def test_a_cell_that_was_not_there_is_new_and_not_changed(plan_study: Planner) -> None:
    record(plan_study())
    changes = plan_study("fold=[0, 1]").changes
    assert not changes.changed and not changes.left_out


def test_other_data_change_runs_without_any_key(
    plan_study: Planner, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    record(plan_study(data=tmp_path / "data"))
    label = data / "labelsTr" / "case_001.nii.gz"
    label.write_bytes(label.read_bytes() + b"more")
    changes = plan_study(data=tmp_path / "data").changes
    assert len(changes.changed) == 1 and changes.differences == ()
    assert [len(ids) for ids in changes.orphaned.values()] == [1, 0, 0, 1]


def test_runs_that_another_sweep_has_are_left_out_and_not_orphaned(
    plan_study: Planner, write_sweep: Callable[..., Path], tiny_dataset: Path
) -> None:
    both = plan_study("fold=[0, 1]")
    record(both)
    other = write_sweep(STUDY.replace("fold = [0]", "fold = [1]"), "other.toml")
    record(make_plan(read_sweep(other), tiny_dataset.parent, both.runs_root))
    changes = plan_study().changes
    assert changes.left_out == (list(both.of_stage("train"))[1],)
    assert not any(changes.orphaned.values())


def test_two_sweep_files_of_one_name_are_refused_with_both_paths(
    plan_study: Planner, write_sweep: Callable[..., Path], tiny_dataset: Path
) -> None:
    first = plan_study()
    record(first)
    path = write_sweep(f'[sweep]\nname = "study"\n{STUDY}', "copy.toml")
    with pytest.raises(BadInput, match=r"copy\.toml: sweep 'study' was applied in .*study\.toml; .*`name`"):
        make_plan(read_sweep(path), tiny_dataset.parent, first.runs_root)
    first.sweep.source.path.write_text(path.read_text())  # the same sweep in two checkouts
    make_plan(read_sweep(path), tiny_dataset.parent, first.runs_root)
    first.sweep.source.path.unlink()  # renamed, for instance
    make_plan(read_sweep(path), tiny_dataset.parent, first.runs_root)


@pytest.mark.parametrize("damage", ['{"name": "study", "runs": []}', '{"stages": [], "needs": {}}', "[]"])
def test_a_damaged_record_is_one_line_that_names_it(plan_study: Planner, damage: str) -> None:
    plan = plan_study()
    record(plan)
    (plan.runs_root / "sweeps" / "study" / "sweep.json").write_text(damage)
    with pytest.raises(BadInput, match=r"sweep\.json: not (the record of a sweep|what hpcseg writes there)"):
        plan_study()
