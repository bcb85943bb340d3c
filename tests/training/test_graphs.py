"""A recorded step does what the step does, whatever changes between steps.

Without a GPU the recording is played by torch's tracer (`make_fx`): it notes each operation of a training step, forward
and backward, with the tensors and numbers that Python gave it, and repeats just these. So it shows what a CUDA graph
would do with γ, the loss's scale, batch norms' buffers and the weights. On GPUs: test_cuda.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from hpcseg.errors import Interrupted
from hpcseg.patches.minibatch import Batch
from hpcseg.paths import MODEL_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training import stages, update
from hpcseg.training.checkpoint import load_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.graphs import WARM_UP, GraphedPasses, copied, preserving, tensors_of
from hpcseg.training.precision import Precision
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.task import Task
from tests.training.conftest import BEFORE, COPYPASTE
from tests.training.stopping import StopAfter

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"epochs": 2, "steps": 4, "validation_steps": 1, "batch": 2, "learning_rate": 3e-3}


class Traced:
    """What `GraphedPasses` does, on a CPU."""

    def __init__(self, task: Task, batch: Any) -> None:
        parameters: dict[nn.Parameter, None] = {}
        calls = 0

        def passes(*tensors: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
            nonlocal calls
            calls += 1
            losses = task.passes(rebuilt(batch, list(tensors)))
            every = [parameter for module in task.modules.values() for parameter in module.parameters()]
            parameters.update({parameter: None for parameter in every if parameter.grad is not None})
            return losses, [parameter.grad for parameter in parameters if parameter.grad is not None]

        with preserving(task):
            self._replay = make_fx(passes)(*tensors_of(batch))
        assert calls == 1
        self._parameters = list(parameters)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        losses, gradients = self._replay(*tensors_of(batch))
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        found: dict[str, Tensor] = losses
        return found


def rebuilt(like: Any, tensors: list[Tensor]) -> Any:
    """A batch of the structure of `like` from its tensors, which are used up."""
    if isinstance(like, Tensor):
        return tensors.pop(0)
    if isinstance(like, Batch):
        images = [tensors.pop(0) for _ in like.images]
        return Batch(images, None if like.label_BDHW is None else tensors.pop(0))
    return tuple(rebuilt(part, tensors) for part in like)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let runs that follow record their steps, or not."""

    def record(_run: Path, task: Task, _control: Control) -> None:
        task.graphed = Traced(task, copied(next(task.batches(0))))

    def wanted(yes: bool) -> None:
        monkeypatch.setattr(stages, "choose_kernels", record if yes else lambda *_: None)

    return wanted


@pytest.mark.parametrize(
    ("strategy", "precision", "average"),
    [
        ("baseline", "float16", 0.9),
        ("transfer", "float32", 0.0),
        ("multitask", "float16", 0.0),
        ("teacher", "float16", 0.0),
        ("copypaste", "float32", 0.0),
        ("masked", "float32", 0.0),
    ],
)
def test_a_run_of_recorded_steps_is_the_run_to_the_bit(
    strategy: str,
    precision: str,
    average: float,
    runs: Path,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    pretrain_spec: Callable[..., PretrainSpec],
    recording: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
    storm: Callable[[int, int], int],
) -> None:
    if strategy in {"transfer", "masked"} and not storm(0, 1):
        pytest.skip("with pytest --all; its steps are the baseline's")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx512_fp16": True}))  # emulated
    monkeypatch.setattr(update, "FIRST_SCALE", 2.0**22)  # some steps overflow
    recording(False)
    models = []
    for level in BEFORE.get(strategy, ()):
        run = runs / "pretrain" / f"level{level}"
        run.mkdir(parents=True, exist_ok=True)
        train(run, pretrain_spec(level), Control(run))
        models.append(run.relative_to(runs) / MODEL_FILE)
    changes = {"training": SETTINGS | {"precision": precision, "average": average}}
    if strategy == "copypaste":
        strategy, changes = "teacher", changes | COPYPASTE
    spec = train_spec(strategy, tuple(models), **changes)
    whole, recorded = new_run("whole"), new_run("recorded")
    train(whole, spec, Control(whole))
    recording(True)
    with pytest.raises(Interrupted):
        train(recorded, spec, StopAfter(recorded, 5))
    train(recorded, spec, Control(recorded))
    assert compare(whole, recorded) is None
    state = load_checkpoint(whole)
    assert state is not None
    if precision == "float16":
        assert 0 < state["update"]["overflows"] < 8
    if strategy == "multitask":
        assert state["extra"]["gamma"] != 1.0  # so it changed after the first epoch


@pytest.mark.parametrize("level", [0, None])
def test_a_pretraining_of_recorded_steps_is_the_pretraining_to_the_bit(
    level: int | None,
    new_run: Callable[[str], Path],
    pretrain_spec: Callable[..., PretrainSpec],
    recording: Callable[[bool], None],
) -> None:
    whole, recorded = new_run("whole"), new_run("recorded")
    recording(False)
    train(whole, pretrain_spec(level), Control(whole))
    recording(True)
    train(recorded, pretrain_spec(level), Control(recorded))
    assert compare(whole, recorded) is None


def test_a_copy_of_a_batch_has_its_layout_and_memory_of_its_own() -> None:
    image = torch.randn(2, 1, 4, 4, 4).to(memory_format=torch.channels_last_3d)
    pair = (
        Batch([image, image[..., :2].contiguous()], torch.ones(2, 2, 2, 2, dtype=torch.int64)),
        Batch([image], None),
    )
    own = copied(pair)
    for given, copy in zip(tensors_of(pair), tensors_of(own), strict=True):
        assert torch.equal(given, copy) and given.stride() == copy.stride() and given.dtype == copy.dtype
        assert given.data_ptr() != copy.data_ptr()
    assert isinstance(own, tuple) and own[1].label_BDHW is None and len(own[0].images) == 2


class PlayedGraph:
    """What a CUDA graph does with memory: a replay writes where the recording wrote."""

    def __init__(self) -> None:
        self.under_way = False
        self.replay: Callable[[], None] = lambda: None


class PlayedCuda:
    """The part of `torch.cuda` that recordings use; `record` is checked against torch's own signature."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> None:
        self.modes: list[Any] = []
        self.ended: list[Any] = []
        self._fails = fails
        stream: Any = MagicMock()
        for name, value in {
            "CUDAGraph": PlayedGraph,
            "Stream": lambda: stream,
            "stream": lambda _: nullcontext(),
            "current_stream": lambda: stream,
            "current_device": lambda: 0,
            "graph_pool_handle": lambda: (0, 1),
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": self.modes.append,
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *which: self.ended.append(which), raising=False)

    @contextmanager
    def graph(self, *arguments: Any, **named: Any) -> Iterator[None]:
        inspect.signature(REAL_GRAPH).bind(*arguments, **named)
        assert self.modes == ["error", 0]  # a step that waits was looked for
        arguments[0].under_way = True
        if self._fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield
        arguments[0].under_way = False


REAL_GRAPH = torch.cuda.graph


class Small:
    """A task of one convolution and a batch norm."""

    def __init__(self) -> None:
        self.network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
        self.modules = {"network": self.network}
        self.update = update.Update(Precision(CPU), {"a": torch.optim.Adam(self.network.parameters(), lr=0.1)})
        self.seen: list[Batch] = []

    def passes(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch)
        loss = self.network(batch.images[0]).square().mean()
        self.update.backward(loss)
        return {"loss": loss.detach()}


def test_a_recording_copies_each_batch_to_its_place_and_hands_out_its_own_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    PlayedCuda(monkeypatch)
    torch.manual_seed(0)
    task: Any = Small()
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    graphed = GraphedPasses(task, Batch([torch.randn(2, 1, 3, 3, 3)], None))
    assert len(task.seen) == WARM_UP + 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.network.state_dict().items())
    assert all(parameter.grad is None for parameter in task.network.parameters())
    replayed: list[Tensor] = []
    monkeypatch.setattr(graphed._graph, "replay", lambda: replayed.append(task.seen[-1].images[0].clone()))
    batch = Batch([torch.randn(2, 1, 3, 3, 3)], None)
    losses = graphed(batch)
    assert torch.equal(replayed[0], batch.images[0]) and task.seen[-1].images[0] is not batch.images[0]
    gradients = [parameter.grad for parameter in task.network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    task.update.clear()  # as whoever measures something does
    assert graphed(batch) is losses
    assert all(p.grad is own for p, own in zip(task.network.parameters(), gradients, strict=True))


def test_a_recording_that_fails_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = PlayedCuda(monkeypatch, fails=True)
    task: Any = Small()
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with pytest.raises(RuntimeError, match="not permitted"):
        GraphedPasses(task, Batch([torch.randn(2, 1, 3, 3, 3)], None))
    assert cuda.ended == [(0, (0, 1))] and cuda.modes == ["error", 0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.network.state_dict().items())
    assert all(parameter.grad is None for parameter in task.network.parameters())
