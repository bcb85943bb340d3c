"""All kernels together train as torch alone does: whole runs of all networks, with Triton's interpreter on a CPU.

What a GPU runs is tested in test_cuda.py; this shows that the pieces fit, wherever there is no GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg import kernels
from hpcseg.networks.convolution import Convolution, Plan
from hpcseg.paths import MODEL_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training import stages
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.control import Control

TINY: dict[str, Any] = {
    "patches": {"size": 4},
    "network": {"levels": 2, "kernel": 3, "maps": 4},
    "training": {"epochs": 1, "steps": 2, "validation_steps": 1, "batch": 1, "learning_rate": 3e-3},
    "autoencoder": {"epochs": 1, "steps": 2, "batch": 1},
    "multitask": {"levels": 1, "batch": 1, "autoencoder_batch": 1},
}

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU compiles kernels, and they want its memory")


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch, kernel_device: torch.device) -> Callable[[], None]:
    """Return a function that lets kernels compute, except in reading threads: the interpreter has only one."""

    def switch_on() -> None:
        monkeypatch.setattr(kernels, "run_on", lambda device: threading.current_thread() is threading.main_thread())
        monkeypatch.setattr(stages, "choose_kernels", lambda *_: None)  # asks a GPU
        monkeypatch.setattr(Convolution, "plan", Plan("triton", "triton", "triton"))

    return switch_on


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], str]:
    return load_tensors(run / MODEL_FILE)["weights"], (run / "history.jsonl").read_text()


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (found[name].double() - tensor.double()).norm() / tensor.double().norm().clamp_min(1e-3)
        assert error < 2e-3, f"{name}: {error}"  # Adam makes much of small differences between small gradients


def test_a_run_of_both_networks_with_kernels_ends_as_with_torch_alone_and_repeats_to_the_bit(
    train_spec: Callable[..., TrainSpec],
    new_run: Callable[[str], Path],
    with_kernels: Callable[[], None],
    storm: Callable[[int, int], int],
) -> None:
    spec = train_spec("multitask", **(TINY | {"training": TINY["training"] | {"steps": storm(1, 2)}}))
    ends = []
    for name in ("torch", "kernels", "again")[: storm(2, 3)]:  # each kernel by itself is always repeated
        if name == "kernels":
            with_kernels()
        run = new_run(name)
        stages.train(run, spec, Control(run))
        ends.append(outcome(run))
    assert_near(ends[1][0], ends[0][0])
    for again in ends[2:]:
        assert ends[1][1] == again[1]
        assert all(torch.equal(tensor, again[0][name]) for name, tensor in ends[1][0].items())


def test_an_autoencoder_with_kernels_ends_as_with_torch_alone(
    pretrain_spec: Callable[[int], PretrainSpec], new_run: Callable[[str], Path], with_kernels: Callable[[], None]
) -> None:
    spec = pretrain_spec(0)
    spec = spec.model_copy(update={"config": spec.config.model_validate({**TINY, "strategy": "transfer"})})
    ends = []
    for name in ("torch", "kernels"):
        if name == "kernels":
            with_kernels()
        run = new_run(name)
        stages.train(run, spec, Control(run))
        ends.append(outcome(run))
    assert_near(ends[1][0], ends[0][0])
