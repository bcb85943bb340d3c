"""Losses of the first 20 steps of each strategy on a CPU, pinned: a change of them is a change of what is trained.

Print fresh values: python -m pytest tests/training/test_golden.py -s -q
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.heartbeat import Heartbeat
from hpcseg.paths import HISTORY_FILE, MODEL_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training import stages
from hpcseg.training.control import Control
from hpcseg.training.stages import train
from tests.training.conftest import RECIPE, SMALL, STORE

TOLERANCE = 1e-4  # relative; other processors round otherwise
SCHEDULE = {"epochs": 4, "steps": 5, "batch": 2, "learning_rate": 3e-3}

Losses = dict[str, list[float]]
# fmt: off
GOLDEN: dict[str, Losses] = {
    "baseline": {
        "steps": [1.456739, 1.441026, 1.467346, 1.311517, 1.417334,
            1.38259, 1.385744, 1.323998, 1.317023, 1.213377,
            1.347702, 1.29239, 1.247363, 1.245462, 1.248841,
            1.124294, 1.256724, 1.237042, 1.183694, 1.150512],
        "validation": [1.404862, 1.318556, 1.294745, 1.145216],
    },
    "masked": {
        "steps": [1.456312, 1.438574, 1.470911, 1.319071, 1.42364,
            1.391291, 1.39712, 1.337381, 1.3295, 1.22221,
            1.360831, 1.302383, 1.256223, 1.256955, 1.258688,
            1.127406, 1.270897, 1.249714, 1.193198, 1.165563],
        "validation": [1.406582, 1.362716, 1.373231, 1.25845],
    },
    "multitask": {
        "steps": [1.456739, 1.441109, 1.467155, 1.311705, 1.417084,
            1.382808, 1.386438, 1.325296, 1.320147, 1.216173,
            1.349249, 1.295225, 1.251871, 1.249164, 1.254391,
            1.131465, 1.262489, 1.242442, 1.192867, 1.157515],
        "validation": [1.405038, 1.324205, 1.305935, 1.173329],
        "reconstruction": [0.1725616, 0.1533668, 0.1729847, 0.1891224],
    },
    "multitask, ratio": {
        "steps": [1.456739, 1.441109, 1.467155, 1.311705, 1.417084,
            1.382808, 1.386405, 1.325092, 1.319414, 1.21536,
            1.348628, 1.294294, 1.250762, 1.24817, 1.253194,
            1.130036, 1.261066, 1.24118, 1.190597, 1.155293],
        "validation": [1.405038, 1.323387, 1.303268, 1.162921],
        "reconstruction": [0.1725616, 0.1533564, 0.1730304, 0.1893005],
    },
    "pretrain 0": {
        "steps": [0.3192931, 0.2311036, 0.2296675, 0.1562752, 0.1902556,
            0.280723, 0.183392, 0.1558433, 0.1250433, 0.1309554,
            0.1666967, 0.2535186, 0.1163251, 0.2674105, 0.1608593,
            0.2040859, 0.1493916, 0.2416409, 0.2095847, 0.2316454],
        "reconstruction": [0.225319, 0.1751914, 0.192962, 0.2072697],
    },
    "pretrain 1": {
        "steps": [0.1142583, 0.1119101, 0.09940453, 0.08266101, 0.08628131,
            0.08640239, 0.07470058, 0.07006422, 0.1071599, 0.09492555,
            0.07186919, 0.07158168, 0.05907051, 0.07593866, 0.08130036,
            0.07377619, 0.06742776, 0.05961933, 0.05516559, 0.04669573],
        "reconstruction": [0.09890306, 0.08665053, 0.07195208, 0.06053692],
    },
    "recipe": {
        "steps": [1.381618, 1.470274, 1.499918, 1.40064, 1.438046,
            1.396609, 1.340413, 1.41337, 1.348354, 1.286916,
            1.430668, 1.396981, 1.37369, 1.275608, 1.287014,
            1.191555, 1.284609, 1.350921, 1.36547, 1.286648],
        "validation": [1.409359, 1.377709, 1.421792, 1.356734],
    },
    "pretrain masked": {
        "steps": [0.6770633, 0.2118216, 0.3266968, 0.1923192, 0.3093763,
            0.5477972, 0.1514219, 0.08348601, 0.05464699, 0.09225631,
            0.30279, 0.4019826, 0.1335146, 0.7752098, 0.3381674,
            0.3291976, 0.2022061, 0.5703825, 0.3679481, 0.4232154],
        "reconstruction": [0.3434554, 0.1859217, 0.3903329, 0.3785899],
    },
    "selftrain": {
        "steps": [1.320168, 1.330243, 1.332482, 1.297282, 1.329845,
            1.251274, 1.299507, 1.276589, 1.25732, 1.240501,
            1.23074, 1.231858, 1.213767, 1.189013, 1.156261,
            1.131078, 1.161587, 1.11983, 1.107959, 1.051258],
        "validation": [1.407543, 1.341706, 1.305386, 1.16456],
    },
    "teacher": {
        "steps": [1.357692, 1.305799, 1.346238, 1.308495, 1.299782,
            1.258644, 1.294619, 1.240177, 1.303813, 1.276765,
            1.231851, 1.256631, 1.243174, 1.183773, 1.164128,
            1.162725, 1.182579, 1.185615, 1.194118, 1.064137],
        "validation": [1.409578, 1.371337, 1.380913, 1.235841],
        "unlabelled": [1.680082, 1.650706, 1.519711, 1.210653],
    },
    "teacher, copypaste": {
        "steps": [1.357692, 1.305799, 1.346238, 1.308495, 1.299782,
            1.258644, 1.296773, 1.243476, 1.304979, 1.278653,
            1.239221, 1.256914, 1.243603, 1.183789, 1.167094,
            1.163174, 1.187881, 1.199535, 1.201154, 1.079715],
        "validation": [1.409578, 1.37099, 1.377396, 1.222654],
        "unlabelled": [1.680082, 1.651868, 1.525409, 1.219712],
    },
    "transfer": {
        "steps": [1.456057, 1.443418, 1.47316, 1.323481, 1.425468,
            1.392837, 1.398313, 1.337861, 1.332032, 1.229978,
            1.358152, 1.304789, 1.25823, 1.253778, 1.251603,
            1.130486, 1.257779, 1.235957, 1.182087, 1.146405],
        "validation": [1.409889, 1.385464, 1.456437, 1.422593],
    },
    "transfer, trained": {
        "steps": [1.456066, 1.443353, 1.473687, 1.325378, 1.426144,
            1.392499, 1.396571, 1.335871, 1.328394, 1.224002,
            1.354997, 1.298566, 1.251439, 1.248095, 1.246758,
            1.121238, 1.250695, 1.22762, 1.171154, 1.141052],
        "validation": [1.409867, 1.384502, 1.451133, 1.406093],
    },
}
# fmt: on


@pytest.fixture(autouse=True)
def one_cpu_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in the order of one thread; no GPU, even where there is one."""
    monkeypatch.setattr(stages, "pick_device", lambda: torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def new(runs: Path, stage: str, name: str) -> Path:
    run = runs / stage / f"golden-{name}"
    run.mkdir(parents=True)
    return run


def trained(run: Path, work: Callable[[Control], None]) -> Losses:
    """The first loss of every step, and the other losses and the validation's of every epoch."""
    losses: dict[int, float] = {}

    def note(beat: Heartbeat) -> None:
        if beat.loss is not None:  # validation repeats the beat of the last step
            losses.setdefault(beat.step, beat.loss)

    work(Control(run, interval_s=0.0, on_beat=note))
    steps = list(losses.values())
    epochs: list[dict[str, Any]] = [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]
    found = {"steps": steps, "validation": [epoch["validation_loss"] for epoch in epochs]}
    found |= {name: [epoch["losses"].get(name) for epoch in epochs] for name in ("reconstruction", "unlabelled")}
    return {name: values for name, values in found.items() if None not in values}


def check(every: dict[str, Losses]) -> None:
    """Print all fresh values, then compare."""
    for name, found in every.items():
        print(fresh_lines(name, found))
    for name, found in every.items():
        expected = GOLDEN[name]
        assert found.keys() == expected.keys(), name
        assert len(found["steps"]) == 20
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, rel=TOLERANCE), f"{name}, {key}"


def fresh_lines(name: str, found: Losses) -> str:
    """As it stands in this file: an epoch of steps a line."""
    lines = [f'    "{name}": {{']
    for key, values in found.items():
        numbers = [f"{value:.7g}" for value in values]
        rows = [", ".join(numbers[first : first + 5]) for first in range(0, len(numbers), 5)]
        lines.append(f'        "{key}": [' + ",\n            ".join(rows) + "],")
    return "\n".join([*lines, "    },"])


def test_losses_of_the_whole_recipe_are_those_pinned(runs: Path, train_spec: Callable[..., TrainSpec]) -> None:
    run = new(runs, "train", "recipe")
    spec = train_spec(**(RECIPE | {"training": SCHEDULE | {"validation_steps": 2} | RECIPE["training"]}))
    check({"recipe": trained(run, lambda control: train(run, spec, control))})


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("baseline", {}),
        ("multitask", {"multitask": SMALL["multitask"] | {"gamma": "power_of_ten"}}),
        ("multitask, ratio", {}),
        ("teacher", {}),
        ("teacher, copypaste", {"teacher": SMALL["teacher"] | {"mix": "copypaste"}}),
    ],
)
def test_losses_are_those_pinned(
    name: str, sections: dict[str, Any], runs: Path, train_spec: Callable[..., TrainSpec]
) -> None:
    strategy, _, _ = name.partition(",")
    run = new(runs, "train", name)
    spec = train_spec(strategy, training=SCHEDULE | {"validation_steps": 2}, **sections)
    check({name: trained(run, lambda control: train(run, spec, control))})


def test_losses_of_self_training_are_those_pinned(runs: Path, train_spec: Callable[..., TrainSpec]) -> None:
    run = new(runs, "train", "selftrain")
    # True labels: a voxel that a network is not sure of has another label where a processor rounds otherwise.
    labelled = train_spec().labelled.model_copy(update={"labels": STORE})
    spec = train_spec("selftrain", (), (labelled,), training=SCHEDULE | {"validation_steps": 2})
    check({"selftrain": trained(run, lambda control: train(run, spec, control))})


def test_losses_of_masked_pretraining_and_fine_tuning_are_those_pinned(
    runs: Path, train_spec: Callable[..., TrainSpec], pretrain_spec: Callable[..., PretrainSpec]
) -> None:
    before, after = new(runs, "pretrain", "masked"), new(runs, "train", "masked")
    plain = pretrain_spec(None, autoencoder=SCHEDULE).model_copy(update={"id": before.name})
    found = {"pretrain masked": trained(before, partial(train, before, plain))}
    tuned = train_spec("masked", (before.relative_to(runs) / MODEL_FILE,), training=SCHEDULE | {"validation_steps": 2})
    check(found | {"masked": trained(after, lambda control: train(after, tuned, control))})


def test_losses_of_pretraining_and_transfer_are_those_pinned(
    runs: Path, train_spec: Callable[..., TrainSpec], pretrain_spec: Callable[[int], PretrainSpec]
) -> None:
    models, found = [], {}
    for level in (0, 1):
        run = new(runs, "pretrain", f"level{level}")
        plain = pretrain_spec(level)
        autoencoder = plain.config.autoencoder.model_copy(update=SCHEDULE)
        config = plain.config.model_copy(update={"autoencoder": autoencoder})
        spec = plain.model_copy(update={"id": run.name, "config": config})
        found[f"pretrain {level}"] = trained(run, partial(train, run, spec))
        models.append(run.relative_to(runs) / MODEL_FILE)
    papers = {"phi": "fresh", "fine_tune_rate": 8e-5}
    for name, section in (("transfer", papers), ("transfer, trained", {})):
        run = new(runs, "train", name)
        schedule = SCHEDULE | {"validation_steps": 2}
        spec_of_it = train_spec("transfer", tuple(models), training=schedule, transfer=section)
        found[name] = trained(run, partial(train, run, spec_of_it))
    check(found)
