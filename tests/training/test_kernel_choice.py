"""What a run's kernels are chosen by, and that the choice is kept; measuring and recording are played here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpcseg.errors import BadInput, Interrupted
from hpcseg.files import read_json, write_json
from hpcseg.networks.autotune import apply_plan
from hpcseg.networks.convolution import Convolution, Plan
from hpcseg.paths import KERNELS_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training import kernel_choice, stages
from hpcseg.training.control import Control
from hpcseg.training.graphs import preserving
from hpcseg.training.loop import fit as really_fit
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.task import Task
from tests.training.stopping import StopAfter

CPU = torch.device("cpu")
PLAN = {"forward": "triton", "input_gradient": "torch", "weight_gradient": "triton wide"}


class Recorded:
    """A recording that is none."""

    def __init__(self, task: Task, batch: Any, streams: Any = ()) -> None:
        self._task, self.streams = task, streams
        with preserving(task):
            task.passes(batch)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        return self._task.passes(batch)


class Unrecorded:
    """A recording that fails."""

    def __init__(self, *_: Any) -> None:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")


class Gpu:
    """Plays the GPU: what is asked of it is noted, what it answers is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.planned: list[torch.dtype] = []
        self.applied: list[Any] = []
        self.tried: list[Any] = []
        self.graphed: list[bool] = []
        self.name, self.times, self.free = "GPU A", [9.0, 8.0, 8.0], 1 << 40
        self.recording: Any = Recorded
        for name in ("empty_cache", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch.cuda, "Stream", object)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1100)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (self.free, 1 << 40))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: self.name)
        monkeypatch.setattr(stages, "pick_device", lambda: CPU)
        monkeypatch.setattr(kernel_choice, "plan_convolutions", self._plan)
        monkeypatch.setattr(kernel_choice, "tried", self._try)
        monkeypatch.setattr(kernel_choice, "apply_plan", lambda _, record: self.applied.append(record["plan"]))
        monkeypatch.setattr(kernel_choice, "GraphedPasses", self._record)
        monkeypatch.setattr(kernel_choice, "_milliseconds", self._time)
        monkeypatch.setattr(stages, "choose_kernels", self._tuned)
        monkeypatch.setattr(stages, "fit", self._fit)

    def _tuned(self, *arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel_choice, "kernels", self)  # nothing but the choice may think that there are any
            return kernel_choice.choose_kernels(*arguments)

    def run_on(self, _: torch.device) -> bool:
        return True

    def _plan(self, network: nn.Module, run: Callable[[], object], _: torch.device, dtype: torch.dtype) -> Any:
        assert any(isinstance(module, Convolution) for module in network.modules())
        run()
        self.planned.append(dtype)
        return {"plan": PLAN}

    def _try(self, _: nn.Module, record: Any, run: Callable[[], object], *__: Any) -> Any:
        run()
        self.tried.append(record)
        return record

    def _record(self, task: Task, batch: Any, streams: Any) -> Any:
        return self.recording(task, batch, streams)

    def _time(self, work: Callable[[], object]) -> float:
        work()
        return self.times.pop(0)

    def _fit(self, task: Task, *rest: Any) -> Any:
        self.graphed.append(task.graphed is not None)
        every = [parameter for module in task.modules.values() for parameter in module.parameters()]
        assert all(parameter.grad is None for parameter in every)
        return really_fit(task, *rest)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


@pytest.mark.parametrize("strategy", ["baseline", "multitask"])
def test_a_run_measures_once_writes_it_down_and_trains_as_if_it_had_not(
    strategy: str,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    gpu: Gpu,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec, run, plain = train_spec(strategy), new_run("run"), new_run("plain")
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 5))
    assert gpu.planned == [torch.float32] and gpu.applied == [PLAN] and gpu.graphed == [True]
    record = read_json(run / KERNELS_FILE)
    step = {"graph": True, "forked": False, "eager_ms": 9.0, "graph_ms": 8.0, "why": "faster"}
    step |= {"forked_ms": 8.0, "forked_why": "not faster"}
    assert record.pop("seconds") < 60
    assert record == {"device": "GPU A", "ranks": 1, "convolutions": {"plan": PLAN}, "step": step}
    assert "a recorded step (eager 9.0 ms, graph 8.0 ms, forked 8.0 ms); measured in" in capsys.readouterr().out
    gpu.name = "GPU B"
    for steps in (2, 0):  # the second time GPU B is known
        with pytest.raises(Interrupted) if steps else nullcontext():
            train(run, spec, StopAfter(run, steps) if steps else Control(run))
    assert len(gpu.planned) == 1 and gpu.applied == [PLAN] * 3 and gpu.graphed == [True] * 3
    assert gpu.tried == [{"plan": PLAN}] and read_json(run / KERNELS_FILE)["tried on"] == ["GPU B"]
    said = "kernels as in kernels.json, chosen on GPU A, though this is GPU B, on which they were tried"
    assert capsys.readouterr().out.count(said) == 2
    assert read_json(run / "training.json")["kernels"] == read_json(run / KERNELS_FILE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "choose_kernels", kernel_choice.choose_kernels)
        train(plain, spec, Control(plain))
    assert not (plain / KERNELS_FILE).exists() and read_json(plain / "training.json")["kernels"] is None
    assert compare(plain, run) is None  # measuring left nothing behind


def test_a_pretraining_does_too(
    new_run: Callable[[str], Path], pretrain_spec: Callable[[int], PretrainSpec], gpu: Gpu
) -> None:
    run, plain = new_run("run"), new_run("plain")
    train(run, pretrain_spec(0), Control(run))
    assert gpu.graphed == [True] and read_json(run / "training.json")["kernels"]["step"]["graph"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "choose_kernels", kernel_choice.choose_kernels)
        train(plain, pretrain_spec(0), Control(plain))
    assert compare(plain, run) is None


@pytest.mark.parametrize(
    ("times", "free", "recording", "why"),
    [
        ([9.0, 8.95, 9.1], 1 << 40, Recorded, "not faster"),
        ([9.0, 8.0], 999, Recorded, "no memory left beside the recording"),
        ([9.0], 1 << 40, Unrecorded, "called a synchronizing CUDA operation"),
    ],
)
def test_a_step_is_not_recorded_where_that_gains_nothing_or_cannot_be(
    times: list[float],
    free: int,
    recording: Any,
    why: str,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    gpu: Gpu,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu.times, gpu.free, gpu.recording = times, free, recording
    run = new_run("run")
    train(run, train_spec(), Control(run))
    step = read_json(run / KERNELS_FILE)["step"]
    assert gpu.graphed == [False] and not step["graph"] and step["why"] == why and step["eager_ms"] == 9.0
    said = (
        "the training step cannot be recorded as a CUDA graph, and runs without: called a synchronizing CUDA operation"
    )
    assert (said in capsys.readouterr().out.splitlines()) == (recording is Unrecorded)


def test_encoders_are_forked_where_that_is_faster_and_in_later_attempts(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.times = [9.0, 8.0, 7.0]
    streams: list[int] = []

    class Counting(Recorded):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            streams.append(len(self.streams))

    gpu.recording = Counting
    run = new_run("run")
    with pytest.raises(Interrupted):
        train(run, train_spec(), StopAfter(run, 5))
    assert read_json(run / KERNELS_FILE)["step"]["forked"] and gpu.graphed == [True]
    train(run, train_spec(), Control(run))
    levels = train_spec().config.network.levels
    assert streams == [0, levels, levels] and levels > 1


def test_a_recording_that_fails_in_a_later_attempt_leaves_the_step_as_it_is(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], gpu: Gpu
) -> None:
    run = new_run("run")
    with pytest.raises(Interrupted):
        train(run, train_spec(), StopAfter(run, 5))
    gpu.recording = Unrecorded
    train(run, train_spec(), Control(run))
    assert gpu.graphed == [True, False]


@pytest.mark.parametrize("change", [{"convolutions": {}}, {"step": {}}])
def test_kernels_of_another_network_are_refused_by_their_file(
    change: dict[str, Any], new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], gpu: Gpu
) -> None:
    run = new_run("run")
    record = {"device": "GPU A", "convolutions": {"plan": PLAN}, "step": {"graph": False}}
    write_json(run / KERNELS_FILE, record | change)
    with pytest.raises(BadInput, match=r"kernels\.json: is not of this network .*; remove the file"):
        train(run, train_spec(), Control(run))


def test_the_kernels_of_a_real_record_are_taken_by_the_convolutions_that_it_names(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def fit(task: Task, *_: Any) -> Any:
        named = nn.ModuleDict(task.modules).named_modules()
        found.append({name: module.plan for name, module in named if isinstance(module, Convolution)})
        raise Interrupted("enough was seen")

    gpu = Gpu(monkeypatch)
    monkeypatch.setattr(kernel_choice, "apply_plan", apply_plan)
    monkeypatch.setattr(stages, "fit", fit)
    run, name = new_run("run"), "fnet.encoders.0.cbr2.conv"
    own = {"device": "GPU A", "dtype": "float32", "convolutions": {name: {"plan": PLAN | {"weight_gradient": "torch"}}}}
    write_json(run / KERNELS_FILE, {"device": gpu.name, "convolutions": own, "step": {"graph": False}, "seconds": 1.0})
    with pytest.raises(Interrupted):
        train(run, train_spec("multitask"), Control(run))
    (plans,) = found
    assert plans.pop(name) == Plan(forward="triton")
    assert set(plans.values()) == {Plan()} and len(plans) > 5
