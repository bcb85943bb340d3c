"""Two processes that train together do what one does: real processes, gloo between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.errors import BadInput, Interrupted
from hpcseg.paths import CHECKPOINT_FILE, HISTORY_FILE, MODEL_FILE
from hpcseg.spec import PretrainSpec, SourceRef, TrainSpec
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.control import Control
from hpcseg.training.rank_info import RankInfo
from hpcseg.training.ranks import joined
from hpcseg.training.stages import train
from hpcseg.training.strategy import check_shares
from tests.training.conftest import BEFORE, COPYPASTE, RECIPE
from tests.waiting import PATIENCE_S

STEPS: dict[str, Any] = {
    "training": {"epochs": 6, "steps": 1, "validation_steps": 1, "batch": 5, "checkpoint_epochs": 2},
    "multitask": {"batch": 5, "autoencoder_batch": 3},
    "teacher": {"supervised_steps": 2, "ramp_steps": 2, "confidence": 0.51},
    "selftrain": {"confidence": 0.6},
}
RANK = """\
import sys
from pathlib import Path

import torch

from hpcseg.errors import Interrupted
from hpcseg.spec import read_spec
from hpcseg.training.control import Control
from hpcseg.training.ranks import joined
from hpcseg.training.rank_info import RankInfo
from hpcseg.training.stages import train

rank, world, stop_after = map(int, sys.argv[1:4])
torch.set_num_threads(1)


class StopAfter(Control):
    def should_stop(self):
        global stop_after
        stop_after -= 1
        return stop_after == 0


for run in map(Path, sys.argv[4:]):
    control = StopAfter(run, silent=rank > 0)
    try:
        with joined(RankInfo(rank, world, rank, job="test"), run, lambda: False) as ranks:
            train(run, read_spec(run), control, ranks=ranks)
    except Interrupted:
        print("stopped")
assert "torch._dynamo" not in sys.modules, "a thousand modules, which a job would import before its first step"
assert "scipy.fft" not in sys.modules, "a tenth of the time of a job's imports, and only places of organs need it"
"""
WITHOUT_GPUS = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # on which ranks would need one each
Spec = TrainSpec | PretrainSpec
NewRun = Callable[[str, Spec], Path]


@pytest.fixture
def new_run(runs: Path, request: pytest.FixtureRequest) -> NewRun:
    """A run directory that holds its specification."""

    def make(name: str, spec: Spec) -> Path:
        run = runs / "train" / f"{request.node.name}-{name}".replace("/", "-")
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        (run / "run.json").write_text(spec.model_dump_json())
        return run

    return make


@pytest.fixture
def pretrained(runs: Path, pretrain_spec: Callable[..., PretrainSpec]) -> Callable[[str], tuple[Path, ...]]:
    """What a strategy needs to be trained before."""

    def make(strategy: str) -> tuple[Path, ...]:
        paths = []
        for level in BEFORE.get(strategy, ()):
            run = runs / "pretrain" / f"ranks-level{level}"
            run.mkdir(parents=True, exist_ok=True)
            train(run, pretrain_spec(level).model_copy(update={"id": run.name}), Control(run))
            paths.append(run.relative_to(runs) / MODEL_FILE)
        return tuple(paths)

    return make


def start(
    *runs: Path, world: int = 2, stops: Sequence[int] = (0, 0), environment: Mapping[str, str] = WITHOUT_GPUS
) -> list[subprocess.Popen[str]]:
    """Start the ranks of some runs, one after the other; rank r is asked to stop after `stops[r]` steps (0: never)."""
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(world), str(stops[rank]), *map(str, runs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(world)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Last line of what each rank printed, or of its error."""
    lines = []
    for process in processes:
        out, error = process.communicate(timeout=PATIENCE_S)
        lines.append(((error if process.returncode else out).strip().splitlines() or [""])[-1])
    return lines


def losses(run: Path) -> torch.Tensor:
    """All losses of every epoch, which has one step."""
    lines = [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]
    values = [[*line["losses"].values(), line["validation_loss"] or 1.0] for line in lines]
    return torch.tensor(values, dtype=torch.float64)


def patch_dice(run: Path) -> list[float]:
    """Of the validation minibatches of every epoch."""
    lines = [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]
    return [line["validation_dice"][0] for line in lines]


def shares(run: Path) -> list[float]:
    """Of the reconstruction in the gradient of tied convolutions; measured after the update, see below."""
    lines = [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]
    return [line["gradient_shares"]["reconstruction"] for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_tensors(run / MODEL_FILE)["weights"]
    return found


def assert_equal_to_rounding(one: Path, two: Path) -> None:
    """Losses to 1e-5 before the second update and 1e-4 after it; weights, root mean square, to 1 % of what Adam may
    have moved them.

    Adam divides a gradient by its own size, and so magnifies float32's rounding where it is nearly 0; in double
    precision all is equal to 1e-5, which another test shows.
    """
    torch.testing.assert_close(losses(two)[0], losses(one)[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-4, atol=0)
    moved = len(losses(one)) * 3e-4
    for name, tensor in weights(one).items():
        gap = (weights(two)[name] - tensor).double().square().mean().sqrt()
        assert float(gap) <= 0.01 * moved + 1e-5 * float(tensor.abs().max()), name


def assert_identical(one: Path, two: Path) -> None:
    assert torch.equal(losses(one), losses(two))
    other = weights(two)
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(one).items())


def test_two_ranks_train_as_one_on_minibatches_of_five(
    new_run: NewRun,
    train_spec: Callable[..., TrainSpec],
    pretrain_spec: Callable[..., PretrainSpec],
    pretrained: Callable[[str], tuple[Path, ...]],
    pseudo_labelled: SourceRef,
    storm: Callable[[int, int], int],
) -> None:
    """Every strategy, the whole recipe, and pretrainings; two processes train them all, one after the other.

    Transfer and masked, once they have begun, train as the baseline does: with pytest --all.
    """
    settings: Any = STEPS["training"]
    specs: dict[str, Spec] = {
        strategy: train_spec(
            strategy, pretrained(strategy), (pseudo_labelled,) if strategy == "selftrain" else (), **STEPS
        )
        for strategy in ("baseline", "multitask", "teacher", "selftrain", "transfer", "masked")[: storm(4, 6)]
    }
    specs["recipe"] = train_spec(**(RECIPE | {"training": settings | RECIPE["training"]}))
    taught = COPYPASTE["teacher"] | STEPS["teacher"]
    specs["copypaste"] = train_spec("teacher", **(STEPS | {"teacher": taught}))
    for level in (1, None):
        before = pretrain_spec(level)
        autoencoder = before.config.autoencoder.model_copy(update={"batch": 3, "epochs": 6, "steps": 1})
        config = before.config.model_copy(update={"autoencoder": autoencoder})
        specs[f"level {level}"] = before.model_copy(update={"config": config})
    one, two = ({name: new_run(f"{name}-{by}", spec) for name, spec in specs.items()} for by in ("one", "two"))
    processes = start(*two.values())
    for name, spec in specs.items():
        train(one[name], spec, Control(one[name]))
    last = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], last
    for name in specs:
        assert_equal_to_rounding(one[name], two[name])
    assert patch_dice(two["recipe"]) == pytest.approx(patch_dice(one["recipe"]), abs=0.02)  # a voxel may go either way
    assert shares(two["multitask"]) == pytest.approx(shares(one["multitask"]), rel=1e-2)
    summary = json.loads((two["baseline"] / "training.json").read_text())
    assert summary["ranks"] == 2 and summary["rank_seconds"] == pytest.approx(2 * summary["seconds"], abs=0.01)


def test_all_stop_where_one_is_asked_to_and_go_on_to_the_bit_or_with_another_number_to_rounding(
    new_run: NewRun, train_spec: Callable[..., TrainSpec]
) -> None:
    spec = train_spec("multitask", **STEPS)
    whole, parts = new_run("whole", spec), new_run("parts", spec)
    length = spec.length.epochs * spec.length.steps
    assert finish(start(whole, parts, stops=(0, length + 3))) == ["stopped", "stopped"]
    assert load_tensors(parts / CHECKPOINT_FILE)["progress"]["epoch"] == 2  # the third step's epoch is not closed
    alone = new_run("alone", spec)
    shutil.copy(parts / CHECKPOINT_FILE, alone)
    shutil.copy(parts / HISTORY_FILE, alone)
    again = start(parts)
    train(alone, spec, Control(alone))
    finish(again)
    assert_identical(whole, parts)
    assert_equal_to_rounding(whole, alone)


def test_when_a_rank_is_killed_the_others_end_and_the_run_goes_on_from_its_checkpoint(
    new_run: NewRun, train_spec: Callable[..., TrainSpec]
) -> None:
    spec = train_spec(training={"epochs": 100_000, "steps": 1, "validation_steps": 1, "checkpoint_epochs": 1})
    run = new_run("killed", spec)
    processes = start(run)
    while not (run / CHECKPOINT_FILE).exists():
        assert processes[0].poll() is None
        time.sleep(0.05)
    processes[1].kill()
    leader, _ = finish(processes)
    assert "rank 0 of 2: another rank ended or does not answer; the last checkpoint is kept" in leader
    before = load_tensors(run / CHECKPOINT_FILE)["progress"]["epoch"]
    assert finish(start(run, stops=(2, 0))) == ["stopped", "stopped"]
    assert load_tensors(run / CHECKPOINT_FILE)["progress"]["epoch"] >= before


@pytest.mark.needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL takes a GPU for each rank")
def test_between_gpus_too_a_rank_that_is_killed_ends_the_other_within_a_minute(
    new_run: NewRun, train_spec: Callable[..., TrainSpec]
) -> None:
    spec = train_spec(training={"epochs": 100_000, "steps": 1, "validation_steps": 1, "checkpoint_epochs": 1})
    run = new_run("killed", spec)
    processes = start(run, environment=os.environ)
    while not (run / CHECKPOINT_FILE).exists():
        assert processes[0].poll() is None
        time.sleep(0.05)
    processes[1].kill()
    began = time.monotonic()
    leader, _ = finish(processes)
    assert "RankLost: rank 0 of 2" in leader and time.monotonic() - began < 60


def test_a_rank_that_waits_for_the_others_stops_when_asked_to(tmp_path: Path) -> None:
    with (
        pytest.raises(Interrupted, match="before all ranks were there"),
        joined(RankInfo(0, 2, 0, job="test"), tmp_path, lambda: True),
    ):
        pass
    with (
        pytest.raises(Interrupted, match="before rank 0 was there"),
        joined(RankInfo(1, 2, 1, job="test"), tmp_path, lambda: True),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_runs_that_ranks_cannot_share_are_refused(
    train_spec: Callable[..., TrainSpec], pretrain_spec: Callable[[int], PretrainSpec]
) -> None:
    check_shares(train_spec(), 2)
    with pytest.raises(BadInput, match=r"training\.batch = 2 cannot be shared by 3 ranks"):
        check_shares(train_spec(), 3)
    with pytest.raises(BadInput, match=r"multitask\.batch = 3 cannot be shared by 4 ranks"):
        check_shares(train_spec("multitask", multitask={"batch": 3}, training={"batch": 8}), 4)
    with pytest.raises(BadInput, match=r"autoencoder\.batch = 2 cannot"):
        check_shares(pretrain_spec(0), 4)
    lifetime = {"batch": 4, "lifetime": 0.5}
    check_shares(train_spec("baseline", autoencoder=lifetime), 2)
    with pytest.raises(BadInput, match=r"autoencoder\.lifetime compares all patches"):
        check_shares(train_spec("multitask", autoencoder=lifetime), 2)


GRADIENTS = """\
import sys
from pathlib import Path

import torch

from hpcseg.config import AutoencoderConfig, RunConfig, TrainingConfig
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.networks.losses import reconstruction_error, segmentation_loss
from hpcseg.training.norm import share_statistics
from hpcseg.training.ranks import joined
from hpcseg.training.rank_info import RankInfo
from hpcseg.training.update import adam

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
for world in (3, 1) if rank == 0 else (3,):
    draw = torch.Generator().manual_seed(0)
    network = FNet(3, 2, (3, 4), 2, 1.0, generator=draw)
    encoder = network.encoder(0).twin()
    autoencoder = WTAutoencoder(3, 3, 1.0, AutoencoderConfig(winners=2), encoder=encoder, generator=draw)
    images = [torch.randn(5, 1, size, size, size, generator=draw, dtype=torch.float64) for size in (14, 14)]
    label = torch.randint(3, (5, 8, 8, 8), generator=draw)
    modules = torch.nn.ModuleList([network, autoencoder]).double()
    with joined(RankInfo(rank, world, rank, job="test"), folder, lambda: False) as ranks:
        share_statistics(modules, ranks)
        own = [image[ranks.part] for image in images]
        optimizer = adam(RunConfig(), [{"params": [*modules.parameters()], "lr": 3e-4}])
        for loss in ("dice_ce", "focal", "dice_ce"):
            optimizer.zero_grad()
            segmentation = segmentation_loss(TrainingConfig(loss=loss), network(own), label[ranks.part], ranks.reduce)
            error = reconstruction_error(AutoencoderConfig(), autoencoder(own[0]), own[0], ranks.reduce)
            (segmentation + 3 * error).backward()
            ranks.sum_gradients(modules.parameters())
            optimizer.step()
        found = {f"gradient of {name}": parameter.grad for name, parameter in modules.named_parameters()}
        found |= {"segmentation": segmentation.detach(), "reconstruction": error.detach(), **modules.state_dict()}
        if ranks.leads:
            torch.save(found, folder / f"{world}.pt")
"""


def test_in_double_precision_uneven_parts_give_the_losses_gradients_statistics_and_weights_of_the_whole(
    tmp_path: Path,
) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", GRADIENTS, str(tmp_path), str(rank)], env=WITHOUT_GPUS)
        for rank in range(3)
    ]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0, 0]
    one, three = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 3))
    for name, tensor in one.items():
        scale = float(tensor.double().abs().max()) or 1.0
        torch.testing.assert_close(three[name], tensor, rtol=0, atol=1e-5 * scale, msg=name)
