"""The optimizers' side of a step: gradients, the scale that keeps them within float16, and Adam.

Nothing here waits for a GPU: an overflow is found, counted and skipped there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcseg.config import RunConfig
from hpcseg.errors import TrainingError
from hpcseg.training.average import WeightAverage
from hpcseg.training.precision import Precision
from hpcseg.training.ranks import ALONE, Ranks

ParameterGroup = dict[str, Any]
FIRST_SCALE = 2.0**16
LOWEST_SCALE = 1.0
GROWTH_STEPS = 2000  # without an overflow, after which the scale is doubled
_SCALE = "loss scale"
_AVERAGED = "averaged steps"


def adam(config: RunConfig, groups: Sequence[ParameterGroup]) -> torch.optim.Adam:
    """Adam with coupled L2 decay; each group keeps the rate it began with as `initial_lr`.

    On a GPU it is one kernel for all weights, which skips a step by itself where a gradient overflowed; on a CPU that
    kernel would round otherwise than torch's plain one, and is not used.

    Args:
        config: of the run.
        groups: weights where they are going to stay, with their rates.
    """
    with_start = [{**group, "initial_lr": group["lr"]} for group in groups]
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return _Adam(with_start, weight_decay=config.training.weight_decay, fused=on_gpu or None)


class _Adam(torch.optim.Adam):
    """torch's Adam, of which no step is compiled: without torch's decorators, which import its compiler for that.

    The compiler is a thousand modules: 40 % of what a job computes until its first step.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take back an optimizer's state, from whatever device; by which kernel it steps stays this device's choice."""
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        group["fused"] = own["fused"]
        if not all(isinstance(group[name], float) for name in own.keys() & {"lr", "initial_lr"}):
            raise TypeError("a rate is no number")
    optimizer.load_state_dict(state)
    for weight, kept in optimizer.state.items():
        if any(isinstance(one, Tensor) and one.dim() and one.shape != weight.shape for one in kept.values()):
            raise ValueError("an optimizer's state has other shapes than the weights")


class LossScale:
    """The factor on a float16 loss: halved by an overflow, doubled after 2000 steps without one; all on the device.

    The arithmetic is that of `torch.amp.GradScaler`, which cannot skip several optimizers together without asking the
    device.

    Attributes:
        factor: float32 scalar; a power of two, so that scaling changes no digit.
        overflowed: float32 scalar, whether the last gradients had an overflow: 1 or 0.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), FIRST_SCALE, device=device)
        self.overflowed = torch.zeros((), device=device)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self._overflows = torch.zeros((), dtype=torch.int64, device=device)

    def take_out(self, gradients: list[Tensor]) -> None:
        """Divide gradients by the factor, note whether one is not finite, and adapt the factor for the next step."""
        self.overflowed.zero_()
        inverse = self.factor.double().reciprocal().float()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.overflowed, inverse)
        torch._amp_update_scale_(self.factor, self._good_steps, self.overflowed, 2.0, 0.5, GROWTH_STEPS)
        self._overflows += self.overflowed.long()

    def state(self) -> dict[str, float]:
        """All that decides how it goes on, and how many overflows there were."""
        return {
            "scale": float(self.factor),
            "good_steps": int(self._good_steps),
            "overflows": int(self._overflows),
        }

    def restore(self, state: Mapping[str, float]) -> None:
        """Take back what `state` gave."""
        self.factor.fill_(state["scale"])
        self._good_steps.fill_(int(state["good_steps"]))
        self._overflows.fill_(int(state["overflows"]))


class Update:
    """One step of every optimizer, or of none where a gradient overflowed; then of the average, if there is one.

    In float16 one scale serves all optimizers, since they share the backward pass. What becomes of it depends on the
    steps alone.

    Attributes:
        average: to be updated after each step; its weights are saved with the task's modules. None: there is none.
    """

    average: WeightAverage[Any] | None = None

    def __init__(
        self, precision: Precision, optimizers: Mapping[str, torch.optim.Optimizer], ranks: Ranks = ALONE
    ) -> None:
        self._optimizers, self._ranks = optimizers, ranks
        self._scale = LossScale(precision.device) if precision.convolutions == "float16" else None

    def clear(self) -> None:
        """Forget the gradients."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of `loss`, a scalar, with the weights, scaled in float16; former ones are forgotten."""
        self.clear()
        torch.autograd.backward(loss if self._scale is None else loss * self._scale.factor)

    def step(self) -> None:
        """Update the weights by the gradients that `backward` left."""
        self._ranks.sum_gradients(self._parameters())
        if self._scale is not None:
            self._scale.take_out([parameter.grad for parameter in self._parameters() if parameter.grad is not None])
        for optimizer in self._optimizers.values():
            if self._scale is None:
                optimizer.step()
            else:
                _step_unless(self._scale.overflowed, optimizer)
        if self.average is not None:
            self.average.update()

    def _parameters(self) -> list[nn.Parameter]:
        groups = (group for optimizer in self._optimizers.values() for group in optimizer.param_groups)
        return [parameter for group in groups for parameter in group["params"]]

    def scale(self) -> dict[str, Tensor]:
        """What the host checks of a step beside its losses: in float16 the scale of the next one."""
        return {} if self._scale is None else {_SCALE: self._scale.factor}

    def check_scale(self, numbers: dict[str, float]) -> None:
        """Take what `scale` gave out of the numbers that came to the host.

        Raises:
            TrainingError: gradients overflow however small the scale.
        """
        if numbers.pop(_SCALE, LOWEST_SCALE) < LOWEST_SCALE:
            raise TrainingError(
                "gradients overflow float16 however they are scaled; the last checkpoint is kept; "
                "set training.precision = 'bfloat16' or 'float32'"
            )

    @property
    def overflows(self) -> int:
        """How many steps were skipped, in all attempts; waits for the device."""
        return int(self.state().get("overflows", 0))

    def state(self) -> dict[str, float]:
        """The scale and all that decides how it goes on, and of how many steps the average is, as plain numbers."""
        scale = {} if self._scale is None else self._scale.state()
        return scale if self.average is None else scale | {_AVERAGED: self.average.steps}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take back what `state` gave."""
        if self._scale is not None and state:
            self._scale.restore(state)
        if self.average is not None:
            self.average.steps = int(state[_AVERAGED])


def _step_unless(overflowed: Tensor, optimizer: torch.optim.Optimizer) -> None:
    if optimizer.param_groups[0]["fused"]:
        optimizer.found_inf = overflowed  # type: ignore[attr-defined]  # how GradScaler tells torch's fused kernels
        optimizer.step()
    elif not overflowed:
        optimizer.step()
