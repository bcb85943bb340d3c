"""An overflow costs one step of all optimizers and nothing else; on GPUs nobody waits to hear of it.

There Adam is torch's fused kernel, which skips a step by itself. It exists for CPUs too, where it is tested here.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpcseg.config import RunConfig
from hpcseg.errors import TrainingError
from hpcseg.training import update as update_module
from hpcseg.training.precision import Precision
from hpcseg.training.update import LossScale, Update, adam, restore_optimizer

CPU = torch.device("cpu")
HUGE = 3e38  # finite, but not times 65536


def scaled_pair(fused: bool) -> tuple[nn.Parameter, nn.Parameter, Update]:
    """Two weights with an optimizer each, and their update in float16."""
    weights = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizers = {name: torch.optim.Adam([w], lr=0.1, fused=fused) for name, w in zip("ab", weights, strict=True)}
    return *weights, Update(Precision(CPU, "float16"), optimizers)


def step(update: Update, loss: Tensor) -> None:
    """One step, and what the host hears of it."""
    update.backward(loss)
    update.step()
    update.check_scale({name: float(value) for name, value in update.scale().items()})


both = pytest.mark.parametrize("fused", [False, True])


@both
def test_an_overflow_skips_the_step_of_every_optimizer_and_is_counted(fused: bool) -> None:
    a, b, update = scaled_pair(fused)
    step(update, (a * HUGE).sum() + b.sum())
    assert torch.equal(a, torch.ones(3)) and torch.equal(b, torch.ones(3))
    assert update.state() == {"scale": 32768.0, "good_steps": 0, "overflows": 1}
    step(update, a.sum() + b.sum())
    assert torch.allclose(a, torch.full((3,), 0.9)) and torch.allclose(b, torch.full((3,), 0.9))
    assert update.overflows == 1 and update.state()["good_steps"] == 1


@both
def test_a_skipped_step_does_not_count_for_adam(fused: bool) -> None:
    a, b, update = scaled_pair(fused)
    for factor in (HUGE, 1.0, HUGE, HUGE, 1.0):
        step(update, (a * factor).sum() + b.sum())
    for optimizer in update._optimizers.values():
        assert [float(state["step"]) for state in optimizer.state.values()] == [2.0]


@both
@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_reaches_no_weight(fused: bool, spoilt: float) -> None:
    a, b, update = scaled_pair(fused)
    step(update, (a * spoilt).sum() + b.sum())
    step(update, a.sum() + b.sum())
    assert torch.allclose(a, torch.full((3,), 0.9)) and torch.allclose(b, a)


@both
def test_scaled_steps_are_the_unscaled_ones(fused: bool) -> None:
    a, b, update = scaled_pair(fused)
    plain = nn.Parameter(torch.ones(3))
    other = Update(Precision(CPU), {"a": torch.optim.Adam([plain], lr=0.1, fused=fused)})
    for number in range(5):
        step(update, (a**2 * (number + 1)).sum() + b.sum())
        step(other, (plain**2 * (number + 1)).sum())
    assert torch.equal(a, plain)  # a power of two changes no digit
    assert other.state() == {} and other.overflows == 0 and other.scale() == {}


def test_the_scale_is_gradscalers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_module, "GROWTH_STEPS", 5)
    scale, weight = LossScale(CPU), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", growth_interval=5)
    for factor in [HUGE, 1.0, *[1.0] * 7, HUGE, HUGE, *[1.0] * 12]:
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        own = [(torch.full((2,), factor) * scale.factor)]
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scale.take_out(own)
        assert weight.grad is not None and torch.equal(own[0], weight.grad)
        assert float(scale.factor) == scaler.get_scale()
        assert scale.state()["good_steps"] == scaler.state_dict()["_growth_tracker"]
    assert scale.state()["overflows"] == 3


@both
def test_a_restored_scale_goes_on_as_the_one_that_was_saved(fused: bool) -> None:
    a, b, update = scaled_pair(fused)
    for _ in range(3):
        step(update, (a * HUGE).sum() + b.sum())
    step(update, a.sum() + b.sum())
    _, _, other = scaled_pair(fused)
    factor = other.scale()["loss scale"]
    other.restore(update.state())
    assert other.state() == update.state() == {"scale": 8192.0, "good_steps": 1, "overflows": 3}
    assert other.scale()["loss scale"] is factor  # a recorded step reads it where it was


@both
def test_gradients_that_are_never_finite_end_the_run(fused: bool) -> None:
    a, b, update = scaled_pair(fused)
    with pytest.raises(TrainingError, match=r"the last checkpoint is kept; set training\.precision"):
        for _ in range(20):
            step(update, (a * float("inf")).sum() + b.sum())
    assert torch.equal(a, torch.ones(3)) and update.state()["scale"] == 0.5


def trained(optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()


@pytest.mark.parametrize(("saved", "restored"), [(True, None), (None, True), (True, True), (None, None)])
def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu_and_the_other_way_round(
    saved: bool | None, restored: bool | None
) -> None:
    def make(fused: bool | None) -> torch.optim.Adam:
        return torch.optim.Adam([nn.Parameter(torch.ones(3))], lr=0.1, fused=fused)

    whole, first, second = make(restored), make(saved), make(restored)
    trained(whole, 5)
    trained(first, 3)
    restore_optimizer(second, first.state_dict())
    assert second.param_groups[0]["fused"] is restored
    with torch.no_grad():
        second.param_groups[0]["params"][0].copy_(first.param_groups[0]["params"][0])
    trained(second, 2)
    torch.testing.assert_close(second.param_groups[0]["params"][0], whole.param_groups[0]["params"][0])
    assert float(second.state_dict()["state"][0]["step"]) == 5.0


def test_on_a_cpu_adam_is_torchs_plain_one() -> None:
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.ones(3))], "lr": 0.25}]
    (group,) = adam(RunConfig(), groups).param_groups
    assert group["fused"] is None and group["initial_lr"] == group["lr"] == 0.25
