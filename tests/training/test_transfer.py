"""S-TL's φ: the size that transferred weights get, and the brief training that it is taken from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpcseg.config import RunConfig, TrainingConfig
from hpcseg.errors import Interrupted
from hpcseg.files import read_json
from hpcseg.paths import CHECKPOINT_FILE, SIZES_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.strategies.transfer import TransferConfig, rms
from hpcseg.training.strategy import find_strategy
from tests.training.stopping import StopAfter

TRAINED = {"phi": "trained", "phi_steps": 5, "scheme": "freeze_all"}
LONG = {"epochs": 10, "steps": 5, "validation_steps": 1, "batch": 2, "learning_rate": 3e-3}


def test_transferred_weights_get_the_size_of_a_baseline_s_after_as_many_steps(
    runs: Path,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    pretrained: tuple[Path, ...],
) -> None:
    baseline, run = new_run("baseline"), new_run("tl")
    train(baseline, train_spec(training=LONG | {"epochs": 1}), Control(baseline))
    train(run, train_spec("transfer", pretrained, transfer=TRAINED, training=LONG), Control(run))
    reference, found = (TrainedModel.load(one).weights for one in (baseline, run))
    sizes = read_json(run / SIZES_FILE)
    for level in (0, 1):
        learned = load_tensors(runs / pretrained[level])["weights"]
        for cbr in (1, 2, 3):
            name = f"encoders.{level}.cbr{cbr}.conv.weight"
            assert sizes[level][cbr - 1] == rms(reference[name])
            assert rms(found[name]) == pytest.approx(sizes[level][cbr - 1], rel=1e-6)
            cosine = torch.cosine_similarity(
                found[name].flatten(), learned[f"encoder.cbr{cbr}.conv.weight"].flatten(), 0
            )
            assert float(cosine) == pytest.approx(1, abs=1e-6)


def test_a_run_that_is_stopped_in_the_brief_training_or_after_it_ends_as_undisturbed(
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    pretrained: tuple[Path, ...],
) -> None:
    spec = train_spec("transfer", pretrained, transfer=TRAINED | {"scheme": "tune_2_3"}, training=LONG)
    whole = new_run("whole")
    train(whole, spec, Control(whole))
    for stops in ((2,), (3, 4, 7), (1, 6)):
        parts = new_run("parts")
        for steps in stops:
            known = (parts / SIZES_FILE).exists()
            with pytest.raises(Interrupted, match=r"epoch" if known or steps > 5 else r"while phi was worked out"):
                train(parts, spec, StopAfter(parts, steps))
            assert (parts / SIZES_FILE).exists() == (parts / CHECKPOINT_FILE).exists() == (known or steps > 5)
        train(parts, spec, Control(parts))
        assert compare(whole, parts) is None, stops
        assert (whole / SIZES_FILE).read_bytes() == (parts / SIZES_FILE).read_bytes()


def test_a_resumed_run_takes_the_sizes_that_it_has(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], pretrained: tuple[Path, ...]
) -> None:
    spec, run = train_spec("transfer", pretrained, transfer=TRAINED), new_run("again")
    (run / SIZES_FILE).write_text("[[0.5, 0.25, 2], [1, 1, 1]]")
    train(run, spec, Control(run))
    weights = TrainedModel.load(run).weights
    found = [rms(weights[f"encoders.0.cbr{cbr}.conv.weight"]) for cbr in (1, 2, 3)]
    assert found == pytest.approx([0.5, 0.25, 2], rel=1e-6)


def test_the_brief_training_is_at_most_a_tenth() -> None:
    lengths = [(1000, 15), (40, 15), (3, 4)]
    config = TransferConfig()
    assert [config.brief_steps(TrainingConfig(epochs=n, steps=m)) for n, m in lengths] == [300, 60, 1]
    assert TransferConfig(phi_steps=7).brief_steps(TrainingConfig()) == 7


@pytest.mark.parametrize(
    ("given", "rate"),
    [({}, 1e-3 * 8 / 30), ({"fine_tune_share": 1}, 1e-3), ({"fine_tune_rate": 8e-5, "fine_tune_share": 1}, 8e-5)],
)
def test_the_rate_of_tuned_blocks_is_a_number_or_a_share(given: dict[str, float], rate: float) -> None:
    assert TransferConfig.model_validate(given).rate(1e-3) == pytest.approx(rate, rel=1e-11)


def test_the_share_gives_the_papers_rate_to_the_bit_and_former_names_are_read() -> None:
    config = RunConfig.model_validate({"strategy": "transfer", "transfer": {"phi": "auto", "fine_tune_rate": 8e-5}})
    assert find_strategy("transfer").resolved(RunConfig(strategy="transfer"))["fine_tune_rate"] == 8e-5
    assert find_strategy("transfer").section(config).phi == "fresh"
    gamma = RunConfig.model_validate({"strategy": "multitask", "multitask": {"gamma": "auto"}})
    assert find_strategy("multitask").section(gamma).gamma == "power_of_ten"
