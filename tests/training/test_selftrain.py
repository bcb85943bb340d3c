"""Self-training: half of every minibatch has pseudo-labels, which count as the confidence says."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpcseg.config import TrainingConfig
from hpcseg.errors import BadInput
from hpcseg.files import write_text
from hpcseg.inference import pseudo_labels
from hpcseg.jobs.entry import execute
from hpcseg.networks.losses import segmentation_loss
from hpcseg.paths import HEARTBEAT_FILE, MODEL_FILE, RESULT_FILE, RUN_FILE, STORE_FILE
from hpcseg.runs.parents import parents_of
from hpcseg.spec import IGNORED, LabelSpec, SourceRef, TrainSpec
from hpcseg.study.keys import parse_config
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.training import stages
from hpcseg.training.checkpoint import load_tensors, save_tensors
from hpcseg.training.control import Control
from hpcseg.training.loop import fit
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.volumes.store import Store
from tests.commandline import call, checked
from tests.planned import run_here
from tests.training.conftest import RECIPE, STORE
from tests.training.stopping import train_in_parts

ROOT = Path(__file__).parents[2]
STUDY = (ROOT / "tests" / "study.toml").read_text(encoding="utf-8")
SETTINGS: dict[str, Any] = {"epochs": 2, "steps": 4, "validation_steps": 1, "batch": 4, "learning_rate": 3e-3}
TEACHER = Path("train/teacher") / MODEL_FILE
NewRun = Callable[[str], Path]
Make = Callable[..., TrainSpec]


@pytest.mark.parametrize("loss", ["dice_ce", "focal"])
def test_voxels_of_no_class_are_no_part_of_the_loss(loss: Any) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(3, 3, 6, 6, 6, requires_grad=True), torch.randint(0, 3, (3, 6, 6, 6))
    config = TrainingConfig(loss=loss)
    whole = segmentation_loss(config, logits, label, partly=True)
    torch.testing.assert_close(whole, segmentation_loss(config, logits, label))
    label[:, :, :3] = IGNORED
    found = segmentation_loss(config, logits, label, partly=True)
    torch.testing.assert_close(found, segmentation_loss(config, logits[:, :, :, 3:], label[:, :, 3:]))
    found.backward()
    assert logits.grad is not None and not logits.grad[:, :, :, :3].any() and logits.grad[:, :, :, 3:].all()
    total: Tensor | float = 0.0

    def add(own: Tensor) -> Tensor:
        nonlocal total
        total = total + own.detach()
        return total

    for part in (slice(0, 1), slice(1, 3)):
        last = segmentation_loss(config, logits[part], label[part], add, partly=True)
    torch.testing.assert_close(last, found.detach())


def test_a_minibatch_has_true_labels_and_pseudo_labels_of_the_store_s_own(
    runs: Path, new_run: NewRun, train_spec: Make, pseudo_labelled: SourceRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def watched(task: Any, *rest: Any) -> Any:
        seen.append(task)
        with closing(task.batches(0)) as batches:
            true, pseudo = next(batches)
            assert (len(true.images[0]), len(pseudo.images[0])) == (2, 2)
            assert pseudo.label_BDHW.any()
        return fit(task, *rest)

    monkeypatch.setattr(stages, "fit", watched)
    run = new_run("run")
    train(run, train_spec("selftrain", (), (pseudo_labelled,), training=SETTINGS), Control(run))
    (task,) = seen
    cases = [source.case for source in task.inputs.pseudo_labelled]
    with Store(runs / STORE) as images, Store(runs / str(pseudo_labelled.labels)) as labels:
        for case in cases:
            box = (0, 0, 0), case.shape_zyx
            assert (case.read_label(*box) == labels.case(case.name).read_label(*box)).all()
            assert (case.read(1, (0, 0, 0), (4, 4, 4)) == images.case(case.name).read(1, (0, 0, 0), (4, 4, 4))).all()
    assert [source.case.name for source in task.inputs.labelled] == [case.name for case in cases]


def test_training_begins_fresh_or_with_the_teacher_s_weights(
    runs: Path, new_run: NewRun, train_spec: Make, pseudo_labelled: SourceRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: list[dict[str, Tensor]] = []

    def watched(task: Any, *rest: Any) -> Any:
        start.append({name: value.clone() for name, value in task.network.state_dict().items()})
        return fit(task, *rest)

    monkeypatch.setattr(stages, "fit", watched)
    for kind in ("fresh", "teacher"):
        run = new_run(kind)
        spec = train_spec("selftrain", (TEACHER,), (pseudo_labelled,), training=SETTINGS, selftrain={"start": kind})
        train(run, spec, Control(run))
    weights = load_tensors(runs / TEACHER)["weights"]
    assert all(torch.equal(start[1][name], weight) for name, weight in weights.items())
    assert not torch.equal(start[0]["classifier.weight"], weights["classifier.weight"])


@pytest.mark.parametrize("kind", ["fnet", "unet"])
def test_self_training_goes_on_to_the_bit(
    kind: str, new_run: NewRun, train_spec: Make, pseudo_labelled: SourceRef
) -> None:
    network = {"kind": kind, "levels": 2, "kernel": 3, "maps": 4}
    changes = RECIPE | {"training": SETTINGS | RECIPE["training"], "network": network}
    spec = train_spec("selftrain", (), (pseudo_labelled,), **changes, selftrain={"confidence": 0.6})
    whole = new_run("whole")
    train(whole, spec, Control(whole))
    for stops in ([1] * 7, [3, 2]):
        parts = new_run("parts")
        train_in_parts(parts, spec, stops)
        assert compare(whole, parts) is None, stops


def test_teachers_that_cannot_be_are_refused() -> None:
    for settings, message in (
        (["training.batch=1"], r"training\.batch = 1: strategy 'selftrain' shares it"),
        (["selftrain.teacher=selftrain"], r"say how often with selftrain\.rounds"),
        (["selftrain.teacher=transfer", "network.kind=unet"], r"'transfer' does not train 'unet'"),
        (["selftrain.teacher=multitask", "multitask.levels=9"], r"multitask\.levels = 9 exceeds"),
        (["selftrain.teacher=teachr"], r"did you mean 'teacher'"),
    ):
        with pytest.raises(BadInput, match=message):
            parse_config(["strategy=selftrain", *settings])


def test_several_teachers_are_the_runs_of_the_seeds_of_a_sweep_and_label_once(plan_study: Callable[..., Plan]) -> None:
    one = plan_study("strategy=selftrain", "labelled=1")
    baselines = plan_study("strategy=baseline", "labelled=1", "seed=[0,1]")
    plan = plan_study("strategy=selftrain", "labelled=1", "selftrain.teachers=2")
    kinds = [planned.spec.stage for planned in plan.stages.values()]
    assert kinds == ["pack", "train", "train", "label", "train"]
    _, *teachers, labels, student = plan.stages
    assert set(teachers) < set(baselines.stages) and not {labels, student} & set(one.stages)
    spec = plan.stages[labels].spec
    assert isinstance(spec, LabelSpec)
    assert [path.parent.name for path in (spec.model, *spec.others)] == teachers == [*plan.stages[labels].needs][1:]
    assert parents_of(spec) == (spec.model, *spec.others)


def test_labels_and_what_learned_from_them_are_made_anew_when_their_parent_is_another_network(
    plan_study: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(pseudo_labels, "pick_device", lambda: torch.device("cpu"))
    plan = plan_study("strategy=selftrain", "labelled=1")
    runs = [plan.run(run_id) for run_id in plan.stages]
    for run, planned in zip(runs, plan.stages.values(), strict=True):
        run.path.mkdir(parents=True)
        write_text(run.path / RUN_FILE, planned.spec.model_dump_json())
        assert execute(run) == "done"
    _, teacher, labels, student = runs

    def made() -> list[bytes]:
        return [(run.path / name).read_bytes() for run, name in ((labels, STORE_FILE), (student, MODEL_FILE))]

    def to_do() -> list[str]:
        for run in runs:
            (run.path / HEARTBEAT_FILE).unlink(missing_ok=True)  # of this very process, which is not at it any more
        again = plan_study("strategy=selftrain", "labelled=1")
        return [run_id for run_id, planned in again.stages.items() if planned.to_submit]

    products = [labels.path / STORE_FILE, student.path / RESULT_FILE]
    before, times = made(), [path.stat().st_mtime_ns for path in products]
    assert not to_do() and execute(labels) == execute(student) == "done"
    (teacher.path / RESULT_FILE).unlink()  # it is measured again, of the same weights: nothing else is done
    assert to_do() == [teacher.id, labels.id, student.id]
    assert [execute(run) for run in runs] == ["done"] * 4 and not to_do()
    assert made() == before and [path.stat().st_mtime_ns for path in products] == times
    model = load_tensors(teacher.path / MODEL_FILE)
    model["weights"]["classifier.bias"][1] += 100.0  # it finds the organ everywhere
    save_tensors(teacher.path / MODEL_FILE, model)
    assert to_do() == [labels.id, student.id]
    (labels.path / ".store.parts").mkdir()
    (labels.path / ".store.parts" / "0").write_bytes(before[0])  # that an interrupted attempt had labelled
    assert [execute(run) for run in runs] == ["done"] * 4 and not to_do()
    assert all(map(operator.ne, made(), before))
    with Store(labels.path / STORE_FILE) as store:
        assert all(case.read_label((0, 0, 0), case.shape_zyx).all() for case in map(store.case, store.names))
    torch.set_num_threads(threads)


def test_a_sweep_trains_labels_and_trains_again(tmp_path: Path, tiny_dataset: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)

    def hpcseg(*arguments: str) -> Any:
        return json.loads(checked(call(tmp_path, *arguments, "--json")).stdout)

    settings = ("strategy=selftrain", "labelled=1", "selftrain.rounds=2")
    plan = make_plan(read_sweep(tmp_path / "study.toml", settings), tiny_dataset.parent, tmp_path / "runs")
    run_here(plan, [*plan.stages][:-2])
    sweep = ["sweep", "study.toml", "--data", str(tiny_dataset.parent), "--on", "local"]
    sweep += [word for setting in settings for word in ("--set", setting)]
    done = hpcseg(*sweep)
    assert (done["submitted"], done["failed"]) == ([*plan.stages][-2:], {})  # the second round, as jobs
    status = hpcseg("status", "study")
    stages = ["pack", "label", "label", "train", "train", "train"]
    assert [(one["stage"], one["state"]) for one in status] == [(stage, "done") for stage in stages]
    (table,) = hpcseg("collect", "study")["tables"]
    assert table["columns"] == ["selftrain"] and [cell["runs_present"] for cell in table["cells"]] == [1]
    assert hpcseg(*sweep, "--plan")["to_submit"] == 0
