"""Training on a GPU: what changes no bit there, what is heard late, and that nothing waits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpcseg.errors import Interrupted, TrainingError
from hpcseg.files import read_json, write_json, write_text
from hpcseg.kernels import torch_alone
from hpcseg.paths import CHECKPOINT_FILE, HISTORY_FILE, KERNELS_FILE, MODEL_FILE, RUN_FILE
from hpcseg.spec import PretrainSpec, Reading, TrainSpec
from hpcseg.training import stages, update
from hpcseg.training.checkpoint import load_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.deferred import LATE, DeferredLosses
from hpcseg.training.precision import Precision, be_deterministic, place
from hpcseg.training.rehearsal import compare, rehearse
from hpcseg.training.stages import train
from hpcseg.training.task import Task
from hpcseg.training.update import Update
from tests.training.conftest import BEFORE
from tests.training.stopping import StopAfter, train_in_parts
from tests.training.test_divergence import poisoned

pytestmark = [
    pytest.mark.needs_gpu,
    pytest.mark.timeout(1200),  # kernels are compiled when they are first measured
]

STRATEGIES = ("baseline", "transfer", "multitask")
SETTINGS: dict[str, Any] = {"epochs": 4, "steps": 5, "validation_steps": 1, "batch": 2, "learning_rate": 3e-3}
SETTINGS |= {"checkpoint_epochs": 1}
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """As in a rehearsal."""
    be_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def specified(
    runs: Path, train_spec: Callable[..., TrainSpec], pretrain_spec: Callable[..., PretrainSpec]
) -> Callable[..., TrainSpec]:
    """Make the specification of a small run of a strategy; the autoencoders that it needs are trained."""

    def make(strategy: str, **settings: Any) -> TrainSpec:
        models = []
        for level in BEFORE.get(strategy, ()):
            run = runs / "pretrain" / f"level{level}"
            run.mkdir(parents=True, exist_ok=True)
            train(run, pretrain_spec(level), Control(run))
            models.append(run.relative_to(runs) / MODEL_FILE)
        return train_spec(strategy, tuple(models), training=SETTINGS | settings)

    return make


def kernels_of(spec: TrainSpec, run: Path) -> dict[str, Any]:
    """Kernels that a run measures when it begins."""
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 1))
    record: dict[str, Any] = read_json(run / KERNELS_FILE)
    return record


def with_kernels(run: Path, record: dict[str, Any], graph: bool) -> Path:
    """A run directory in which kernels were chosen already."""
    write_json(run / KERNELS_FILE, record | {"step": record["step"] | {"graph": graph}})
    return run


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_twenty_recorded_steps_are_the_steps_to_the_bit_and_so_are_interrupted_ones(
    strategy: str,
    precision: str,
    specified: Callable[..., TrainSpec],
    new_run: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(update, "FIRST_SCALE", 2.0**22)  # in float16 some steps overflow
    spec = specified(strategy, precision=precision)
    record = kernels_of(spec, new_run("begun"))
    eager = with_kernels(new_run("eager"), record, graph=False)
    graphed = with_kernels(new_run("graphed"), record, graph=True)
    parts = with_kernels(new_run("parts"), record, graph=True)
    train(eager, spec, Control(eager))
    capsys.readouterr()
    train(graphed, spec, Control(graphed))
    said = capsys.readouterr().out
    assert "a recorded step" in said and "cannot be recorded" not in said
    assert compare(eager, graphed) is None
    train_in_parts(parts, spec, (3, 9))
    assert compare(eager, parts) is None
    overflows = read_json(eager / "training.json")["precision"]["overflows"]
    assert (overflows > 0) == (precision == "float16")


def test_a_recorded_pretraining_is_the_pretraining_to_the_bit(
    pretrain_spec: Callable[..., PretrainSpec], new_run: Callable[[str], Path]
) -> None:
    spec = pretrain_spec(0)
    runs = [new_run(name) for name in ("first", "eager", "graphed")]
    train(runs[0], spec, Control(runs[0]))
    record = read_json(runs[0] / KERNELS_FILE)
    for run, graph in zip(runs[1:], (False, True), strict=True):
        train(with_kernels(run, record, graph), spec, Control(run))
    assert compare(runs[0], runs[1]) is None and compare(runs[0], runs[2]) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_is_killed_ends_as_the_undisturbed_one(
    strategy: str, specified: Callable[..., TrainSpec], new_run: Callable[[str], Path]
) -> None:
    run = new_run("run")
    write_text(run / RUN_FILE, specified(strategy).model_dump_json())
    done = rehearse(run, epochs=3, steps=5, interruptions=3, seed=STRATEGIES.index(strategy))
    assert done.difference is None


@pytest.mark.parametrize("strategy", ["baseline", "multitask"])
def test_volumes_on_the_gpu_and_on_the_disk_give_the_same_bits(
    strategy: str, specified: Callable[..., TrainSpec], new_run: Callable[[str], Path]
) -> None:
    spec = specified(strategy)
    record = kernels_of(spec, new_run("begun"))
    graph = record["step"]["graph"]
    resident, streamed = (with_kernels(new_run(name), record, graph) for name in ("resident", "streamed"))
    train(resident, spec, Control(resident), Reading(tier="gpu"))
    train(streamed, spec, Control(streamed), Reading(tier="streamed"))
    assert compare(resident, streamed) is None


def test_without_own_kernels_nothing_is_measured_and_losses_are_close(
    specified: Callable[..., TrainSpec], new_run: Callable[[str], Path]
) -> None:
    spec, own, plain = specified("baseline", precision="float32"), new_run("own"), new_run("plain")
    train(own, spec, Control(own))
    with torch_alone():
        train(plain, spec, Control(plain))
    assert (own / KERNELS_FILE).exists() and not (plain / KERNELS_FILE).exists()
    assert history(own)[0]["training_loss"] == pytest.approx(history(plain)[0]["training_loss"], rel=1e-3)


def test_float32_is_float32() -> None:
    torch.backends.cudnn.allow_tf32 = True
    own = place(nn.Conv3d(32, 32, 5, bias=False), GPU)
    maps = torch.randn(2, 32, 12, 12, 12, device=GPU)
    with torch.no_grad():
        exact = nn.functional.conv3d(maps.double(), own.weight.double())
        error = (own(maps).double() - exact).norm() / exact.norm()
    assert float(error) < 1e-5  # TensorFloat-32: some 3e-4


def test_the_first_step_in_float32_is_that_of_a_cpu(
    specified: Callable[..., TrainSpec], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, gpu, cpu = specified("multitask", precision="float32", epochs=1, steps=1), new_run("gpu"), new_run("cpu")
    train(gpu, spec, Control(gpu))
    monkeypatch.setattr(stages, "pick_device", lambda: torch.device("cpu"))
    train(cpu, spec, Control(cpu))
    for name, loss in history(cpu)[0]["losses"].items():
        assert history(gpu)[0]["losses"][name] == pytest.approx(loss, rel=1e-4)


def test_a_run_begun_on_a_gpu_goes_on_on_a_cpu_and_comes_back(
    specified: Callable[..., TrainSpec], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = specified("multitask", precision="float32"), new_run("run")
    for device in (GPU, torch.device("cpu"), GPU):
        monkeypatch.setattr(stages, "pick_device", lambda device=device: device)
        with pytest.raises(Interrupted):
            train(run, spec, StopAfter(run, 4))
    train(run, spec, Control(run))
    state = load_checkpoint(run)
    assert state is not None and len(history(run)) == 4
    moments = [moment for own in state["optimizers"].values() for moment in own["state"].values()]
    assert {float(moment["step"]) for moment in moments} == {20.0}


def test_an_enormous_scale_costs_the_first_steps_and_then_float16_trains(
    specified: Callable[..., TrainSpec], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "FIRST_SCALE", 2.0**40)
    run = new_run("run")
    train(run, specified("baseline", precision="float16", epochs=12, steps=10), Control(run))
    overflows = read_json(run / "training.json")["precision"]["overflows"]
    state = load_checkpoint(run)
    assert state is not None and 5 <= overflows < 40
    assert state["update"]["scale"] == 2.0 ** (40 - overflows)
    losses = [line["training_loss"] for line in history(run)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_overflow_skips_a_step_and_nobody_waits_for_it() -> None:
    weights = [nn.Parameter(torch.ones(3, device=GPU)) for _ in "ab"]
    optimizers = {name: torch.optim.Adam([w], lr=0.1, fused=True) for name, w in zip("ab", weights, strict=True)}
    own = Update(Precision(GPU, "float16"), optimizers)
    huge = torch.tensor(3e38, device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for factor in (huge, torch.ones_like(huge), huge, torch.ones_like(huge)):
            own.backward((weights[0] * factor).sum() + weights[1].sum())
            own.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert own.state() == {"scale": 2.0**14, "good_steps": 1, "overflows": 2}
    for weight, optimizer in zip(weights, optimizers.values(), strict=True):
        torch.testing.assert_close(weight.detach().cpu(), torch.full((3,), 0.8))
        assert [float(state["step"]) for state in optimizer.state.values()] == [2.0]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_no_step_waits_for_the_gpu(
    precision: str,
    graph: bool,
    specified: Callable[..., TrainSpec],
    new_run: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = specified("multitask", precision=precision)
    record = kernels_of(spec, new_run("begun"))
    run = with_kernels(new_run("run"), record, graph)

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any) -> Any:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return work(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return watch

    monkeypatch.setattr(Task, "train_step", watched(Task.train_step))
    monkeypatch.setattr(DeferredLosses, "send", watched(DeferredLosses.send))
    train(run, spec, Control(run))
    assert len(history(run)) == 4


def test_reports_are_late_and_right() -> None:
    heard: list[tuple[int, float]] = []
    losses = DeferredLosses(GPU, lambda step, numbers: heard.append((step, numbers["loss"])))
    loss: Tensor = torch.zeros((), device=GPU)
    for step in range(1, 200):
        losses.send(step, {"loss": loss.add_(1)})
        assert heard[-1:] == ([(step - LATE, float(step - LATE))] if step > LATE else [])
    losses.flush()
    assert heard == [(step, float(step)) for step in range(1, 200)]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("strategy", ["baseline", "multitask"])
def test_a_spoilt_volume_stops_the_run_by_the_step_that_drew_it_and_the_mended_run_ends_as_if_nothing_had_been(
    strategy: str,
    graph: bool,
    specified: Callable[..., TrainSpec],
    new_run: Callable[[str], Path],
) -> None:
    spec = specified(strategy)
    record = kernels_of(spec, new_run("begun"))
    whole, run = (with_kernels(new_run(name), record, graph) for name in ("whole", "run"))
    train(whole, spec, Control(whole))
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 7))
    cpu = new_run("cpu")
    for name in (CHECKPOINT_FILE, HISTORY_FILE):
        shutil.copy(run / name, cpu)
    with pytest.MonkeyPatch.context() as patch, poisoned(spoilt=1) as drawn, pytest.raises(TrainingError) as caught:
        patch.setattr(stages, "pick_device", lambda: torch.device("cpu"))  # where each step is heard of at once
        train(cpu, specified(strategy, precision="float32"), Control(cpu))
    epoch, step = divmod(7 + drawn.index(True), 5)
    said = f"the segmentation loss is nan in epoch {epoch + 1}, step {step + 1};"
    assert said in str(caught.value)
    with poisoned(spoilt=1, watch=False), pytest.raises(TrainingError) as caught:
        train(run, spec, Control(run))
    assert said in str(caught.value)
    state = load_checkpoint(run)
    assert state is not None
    assert state["progress"]["epoch"] * 5 + state["progress"]["step"] == max(7, 5 * epoch)
    assert all(torch.isfinite(tensor).all() for module in state["modules"].values() for tensor in module.values())
    assert len(history(run)) == state["progress"]["epoch"]
    train(run, spec, Control(run))
    assert compare(whole, run) is None
