"""Every strategy trains from its run directory alone, and an interrupted run ends as the undisturbed one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.errors import Interrupted, TrainingError
from hpcseg.files import read_json, write_text
from hpcseg.inference.evaluate import evaluate, measure_scans
from hpcseg.paths import CHECKPOINT_FILE, HISTORY_FILE, MODEL_FILE, PREVIOUS_FILE, RUN_FILE
from hpcseg.results.collection import Result
from hpcseg.results.freshness import mixture
from hpcseg.spec import CaseRef, PretrainSpec, TrainSpec
from hpcseg.training.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel, new_network
from hpcseg.training.ranks import ALONE
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.version import code_version
from tests.commandline import call, checked
from tests.training.conftest import SMALL
from tests.training.stopping import StopAfter, train_in_parts

STRATEGIES = ("baseline", "transfer", "multitask")


def spec_of(strategy: str, train_spec: Callable[..., TrainSpec], pretrained: tuple[Path, ...]) -> TrainSpec:
    return train_spec(strategy, pretrained if strategy == "transfer" else ())


def same_weights(first: Path, second: Path) -> bool:
    one, two = TrainedModel.load(first).weights, TrainedModel.load(second).weights
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_trains_and_leaves_model_history_and_summary(
    strategy: str,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    pretrained: tuple[Path, ...],
) -> None:
    run = new_run("whole")
    train(run, spec_of(strategy, train_spec, pretrained), Control(run))
    assert len((run / HISTORY_FILE).read_text().splitlines()) == 3
    summary = read_json(run / "training.json")
    assert summary["epochs"] == 3
    assert summary["steps"] == 12
    model = TrainedModel.load(run)
    assert model.window is not None
    assert model.config.strategy == strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interrupted_run_ends_bit_identical(
    strategy: str,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    pretrained: tuple[Path, ...],
    storm: Callable[[int, int], int],
) -> None:
    spec = spec_of(strategy, train_spec, pretrained)
    whole = new_run("whole")
    train(whole, spec, Control(whole))
    for stops in ((3, 2, 5), (4,), (7, 1), (1,))[: storm(2, 4)]:
        parts = new_run("parts")
        train_in_parts(parts, spec, stops)
        assert same_weights(whole, parts), stops
        assert (whole / HISTORY_FILE).read_text() == (parts / HISTORY_FILE).read_text()


def test_whole_scans_are_measured_as_at_the_end_and_nothing_else_changes(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    plain, watched = new_run("plain"), new_run("watched")
    learning = SMALL["training"] | {"select": "last", "average": 0.5}
    train(plain, train_spec(training=learning), Control(plain))
    spec = train_spec(training=learning | {"dsc_epochs": 2})
    with pytest.raises(Interrupted):
        train(watched, spec, StopAfter(watched, 9), measure=measure_scans)  # within the epoch after the measurement
    train(watched, spec, Control(watched), measure=measure_scans)
    assert same_weights(plain, watched)
    lines = [[json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()] for run in (plain, watched)]
    (dsc,) = [line.pop("validation_dsc") for line in lines[1] if "validation_dsc" in line]
    assert [line | {"seal": ""} for line in lines[0]] == [line | {"seal": ""} for line in lines[1]]
    random = torch.get_rng_state()
    done = measure_scans(TrainedModel.load(watched), spec, Control(watched), ALONE)
    assert torch.equal(torch.get_rng_state(), random)
    evaluate(watched, spec, Control(watched))
    scores = [score["dsc"] for score in read_json(watched / "result.json")["sets"]["validation"]]
    assert done == [sum(scores) / 2]
    assert len(dsc) == 1 and 0 <= dsc[0] <= 1
    stopped = Control(plain)
    stopped.ask_to_stop()
    assert measure_scans(TrainedModel.load(plain), spec, stopped, ALONE) is None


def test_a_seed_may_be_any_whole_number(new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]) -> None:
    short = {"training": SMALL["training"] | {"epochs": 1}}
    first, second = new_run("1"), new_run("2")
    for run, seed in ((first, 1), (second, 2**64 + 1)):
        train(run, train_spec("multitask", seed=seed, **short), Control(run))
    assert same_weights(first, second)


def test_same_specification_gives_the_same_weights_and_another_seed_others(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    first, second, third = new_run("1"), new_run("2"), new_run("3")
    train(first, train_spec(), Control(first))
    train(second, train_spec(), Control(second))
    train(third, train_spec(seed=1), Control(third))
    assert same_weights(first, second)
    assert not same_weights(first, third)


class StopAfterOneScan(Control):
    """Asks to stop as soon as something is kept."""

    def reached(self, progress: int) -> None:
        super().reached(progress)
        self.ask_to_stop()


def test_a_unet_trains_as_baseline_and_ends_bit_identical_when_interrupted(
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    cases: tuple[CaseRef, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = train_spec(network={"kind": "unet", "levels": 3, "kernel": 3, "maps": (3, 4, 5)})
    spec = spec.model_copy(update={"validation_scans": cases[3:]})
    whole, parts = new_run("whole"), new_run("parts")
    train(whole, spec, Control(whole))
    with pytest.raises(Interrupted):
        train(parts, spec, StopAfter(parts, 5))
    train(parts, spec, Control(parts))
    assert same_weights(whole, parts)
    evaluate(whole, spec, Control(whole))
    lines = read_json(whole / "result.json")["sets"]["validation"]
    assert all(0 <= line["dsc"] <= 1 for line in lines)
    assert lines
    measured = {"case", "class", "dsc", "hd95", "hd", "nsd", "asd", "volume_ml", "reference_ml", "volume_difference"}
    assert all(line.keys() == measured for line in lines)

    control = StopAfterOneScan(parts)
    with pytest.raises(Interrupted, match=r"after [12] of 3"):  # the second one may have been begun
        evaluate(parts, spec, control)
    steps = read_json(parts / "training.json")["steps"]
    done = control.progress - steps
    assert 1 <= done <= 2 and len((parts / "evaluation.jsonl").read_text().splitlines()) == done
    with (parts / "evaluation.jsonl").open("a") as file:
        case = spec.validation_scans[2].name
        dsc_only = {"set": "validation", "case": case, "classes": [{"case": case, "class": 1, "dsc": 0.5}]}
        file.write(json.dumps(dsc_only) + "\n")  # of an older version: measured again
        other = {"set": "validation", "case": case, "nsd_mm": spec.config.inference.nsd_mm, "model": "0" * 64}
        of_another = other | {"classes": [lines[0] | {"case": case, "dsc": 0.5}]}
        file.write(json.dumps(of_another) + "\n")  # of the weights before it was trained anew
        file.write('{"set": "valid')  # torn by a crash
    monkeypatch.setattr("hpcseg.inference.evaluate.code_version", lambda: {"version": "0.1.0", "commit": "another"})
    evaluate(parts, spec, Control(parts))
    one, other = (read_json(run / "result.json") for run in (whole, parts))
    assert one["sets"] == other["sets"]
    assert one["code"].items() > code_version().items()
    mixed = mixture(Result.model_validate(result | {"id": name}) for name, result in (("a", one), ("b", other)))
    assert mixed.odd and "(another) (1 run)" in mixed.lines[0]
    assert not (parts / "evaluation.jsonl").exists()


@pytest.mark.parametrize("changes", [{"decoder": "cbru"}, {"loss": "l2"}, {"lifetime": 0.5}])
def test_variants_of_the_autoencoder_pretrain_another_network(
    changes: dict[str, Any],
    runs: Path,
    new_run: Callable[[str], Path],
    pretrain_spec: Callable[[int], PretrainSpec],
    pretrained: tuple[Path, ...],
) -> None:
    spec, run = pretrain_spec(0), new_run("variant")
    autoencoder = spec.config.autoencoder.model_copy(update=changes)
    config = spec.config.model_copy(update={"autoencoder": autoencoder})
    train(run, spec.model_copy(update={"config": config}), Control(run))
    plain, found = (load_tensors(path)["weights"] for path in (runs / pretrained[0], run / MODEL_FILE))
    name = "encoder.cbr1.conv.weight"
    assert torch.isfinite(found[name]).all()
    assert not torch.equal(found[name], plain[name])


def test_focal_loss_trains_another_network(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    plain, focal = new_run("plain"), new_run("focal")
    settings = train_spec().config.training.model_dump()
    train(plain, train_spec(), Control(plain))
    train(focal, train_spec(training={**settings, "loss": "focal"}), Control(focal))
    assert not same_weights(plain, focal)


def test_training_lowers_the_loss(new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]) -> None:
    run = new_run("long")
    settings = {"epochs": 12, "steps": 8, "validation_steps": 2, "batch": 2, "learning_rate": 3e-3}
    train(run, train_spec(training=settings), Control(run))
    losses = [json.loads(line)["training_loss"] for line in (run / HISTORY_FILE).read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_transfer_scales_freezes_and_tunes_by_the_scheme(
    runs: Path,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    pretrained: tuple[Path, ...],
) -> None:
    run, spec = new_run("tl"), train_spec("transfer", pretrained, transfer={"phi": "fresh"})
    train(run, spec, Control(run))
    weights = TrainedModel.load(run).weights
    fresh = new_network(spec.config, 1, torch.Generator().manual_seed(spec.config.seed)).state_dict()
    for level in (0, 1):
        learned = load_tensors(runs / pretrained[level])["weights"]
        for cbr in (1, 2, 3):
            name, own = f"encoders.{level}.cbr{cbr}.conv.weight", learned[f"encoder.cbr{cbr}.conv.weight"]
            phi = float(fresh[name].square().mean().sqrt() / own.square().mean().sqrt())
            assert torch.equal(weights[name], phi * own) == (cbr == 1)  # tune_2_3


@pytest.mark.parametrize("rule", ["ratio", "power_of_ten"])
def test_multitask_fixes_gamma_after_the_first_epoch(
    rule: str, new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    run = new_run("gamma")
    with pytest.raises(Interrupted):
        train(run, train_spec("multitask", multitask=SMALL["multitask"] | {"gamma": rule}), StopAfter(run, 6))
    state = load_checkpoint(run)
    assert state is not None
    gamma = state["extra"]["gamma"]
    losses = json.loads((run / HISTORY_FILE).read_text().splitlines()[0])["losses"]
    ratio = losses["segmentation"] / losses["reconstruction"]
    assert gamma == (ratio if rule == "ratio" else 10.0 ** round(math.log10(ratio))) != 1.0


def test_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    run = new_run("nan")
    spec = train_spec(training={"epochs": 3, "steps": 4, "validation_steps": 1, "batch": 2, "checkpoint_epochs": 1})
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 5))
    state = load_checkpoint(run)
    assert state is not None
    for name in state["modules"]["fnet"]:
        if name.endswith("conv.weight"):
            state["modules"]["fnet"][name].fill_(float("nan"))
    save_checkpoint(run, state)
    with pytest.raises(TrainingError, match=r"segmentation loss is nan in epoch 2, step 2"):
        train(run, spec, Control(run))
    assert load_checkpoint(run) is not None


EVERY_EPOCH = {"epochs": 3, "steps": 4, "validation_steps": 1, "batch": 2, "checkpoint_epochs": 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_damaged_newest_checkpoint_falls_back_and_the_run_ends_as_undisturbed(
    strategy: str, new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], pretrained: tuple[Path, ...]
) -> None:
    spec = train_spec(strategy, pretrained if strategy == "transfer" else (), training=EVERY_EPOCH)
    whole, parts = new_run("whole"), new_run("parts")
    train(whole, spec, Control(whole))
    with pytest.raises(Interrupted):
        train(parts, spec, StopAfter(parts, 10))
    (parts / CHECKPOINT_FILE).write_bytes((parts / CHECKPOINT_FILE).read_bytes()[:-100])
    with pytest.warns(UserWarning, match="trying the one before it"):
        train(parts, spec, Control(parts))
    assert compare(whole, parts) is None


def test_damaged_checkpoints_as_the_user_sees_them(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    run = new_run("seen")
    spec = train_spec(training=EVERY_EPOCH).model_copy(update={"id": run.name})
    write_text(run / RUN_FILE, spec.model_dump_json())
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 10))
    history = (run / HISTORY_FILE).read_text()
    sound = (run / PREVIOUS_FILE).read_bytes()
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        (run / name).write_bytes(b"")
    command = [sys.executable, "-m", "hpcseg", "train", str(run)]
    refused = checked(call(run, *command[3:]), 2)
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert f"no checkpoint can be read; delete {run} and run the sweep again" in line
    assert (run / HISTORY_FILE).read_text() == history  # nothing was begun anew
    (run / PREVIOUS_FILE).write_bytes(sound)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "checkpoint.pt: not a file of hpcseg's tensors; trying the one before it" in done.stderr
    assert read_json(run / "result.json")["training"]["checkpoint"]["saves"] > 0


def test_a_trained_run_is_left_as_it_is(new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]) -> None:
    run = new_run("again")
    train(run, train_spec(), Control(run))
    before = (run / MODEL_FILE).stat().st_mtime_ns
    train(run, train_spec(), Control(run))
    assert (run / MODEL_FILE).stat().st_mtime_ns == before
