"""The networks' valid 3D convolutions, which are nearly all of a training step.

Forward, the gradient of the input and that of the weights are three operations, and each may be torch's, a matrix
product where the kernel's edge is 1, or a kernel of hpcseg's own (`hpcseg.networks.kernels.convolution`): whichever is
faster for its sizes on the GPU at hand, as `hpcseg.networks.autotune` finds out.

Shapes: B batch, I input maps, K feature maps, D H W (z, y, x) edges, n kernel edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpcseg import kernels
from hpcseg.networks.layout import channels_last

TORCH, BY_TRIAL, PRODUCT = "torch", "torch by trial", "product"
OPERATIONS = {
    "forward": (TORCH, BY_TRIAL, PRODUCT, "triton", "triton wide"),
    "input_gradient": (TORCH, BY_TRIAL, PRODUCT, "triton", "triton wide"),
    "weight_gradient": (TORCH, BY_TRIAL, PRODUCT, "triton"),
}  # and the ways to compute each; by trial: cuDNN times its algorithms; product: for edge 1; wide: larger tiles
MAX_EDGE = 15
_ONE, _ZERO = (1, 1, 1), (0, 0, 0)


@dataclass(frozen=True)
class Plan:
    """How a convolution's operations are computed where kernels run: one of `OPERATIONS` each."""

    forward: str = TORCH
    input_gradient: str = TORCH
    weight_gradient: str = TORCH

    def __post_init__(self) -> None:
        for field in fields(self):
            way = getattr(self, field.name)
            if way not in OPERATIONS[field.name]:
                raise ValueError(f"{field.name} by {way!r}: it is one of {', '.join(OPERATIONS[field.name])}")


TORCH_ALONE = Plan()


class Convolution(nn.Conv3d):
    """A 3D convolution; parameters and state are those of `torch.nn.Conv3d`.

    Attributes:
        plan: how it is computed; no part of the state.
    """

    plan: Plan = TORCH_ALONE

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return maps_BKDHW."""
        if self.plan != TORCH_ALONE and kernels.run_on(input.device):
            dtype = _computed_in(input, self.weight)
            if dtype is not None and self.fits(tuple(input.shape), dtype):
                maps_BKDHW = planned_convolution(input, self.weight, self.plan, dtype)
                return maps_BKDHW if self.bias is None else maps_BKDHW + self.bias.to(dtype)[:, None, None, None]
        result: Tensor = super().forward(input)
        return result

    def fits(self, shape_BIDHW: tuple[int, ...], dtype: torch.dtype) -> bool:
        """Whether hpcseg's kernels compute this convolution of such an input: valid, stride 1, cubic."""
        edge = self.kernel_size[0]
        if self.kernel_size != (edge,) * 3 or not edge <= MAX_EDGE or self.groups != 1:
            return False
        if (self.stride, self.padding, self.dilation) != (_ONE, _ZERO, _ONE) or dtype not in kernels.DTYPES:
            return False
        if len(shape_BIDHW) != 5 or shape_BIDHW[1] != self.in_channels or min(shape_BIDHW[2:]) < edge:
            return False
        positions = prod((shape_BIDHW[0], *shape_BIDHW[2:4], shape_BIDHW[4] + 2 * edge))
        return positions < 1 << 30 and positions * max(self.in_channels, self.out_channels) < 1 << 31


def _computed_in(input: Tensor, weight: Tensor) -> torch.dtype | None:  # noqa: A002
    """The dtype in which torch would compute; None where it is torch's to say what is wrong."""
    if input.dtype in kernels.DTYPES and torch.is_autocast_enabled(input.device.type):
        return torch.get_autocast_dtype(input.device.type)
    return input.dtype if input.dtype == weight.dtype else None


def planned_convolution(maps_BIDHW: Tensor, weight_KInnn: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    """Return the convolution, in `dtype`, differentiable once; each operation as the plan says.

    The gradient of float32 weights comes from sums of float32, unrounded, where a kernel computes it.

    Args:
        maps_BIDHW: of any dtype; what is kept for the backward pass is in `dtype`.
        weight_KInnn: of any dtype.
        plan: how to compute; kernels are to run on the maps' device.
        dtype: float32, bfloat16 or float16.
    """
    result: Tensor = _Planned.apply(maps_BIDHW, weight_KInnn, plan, dtype)  # type: ignore[no-untyped-call]
    return result


class _Planned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps_BIDHW: Tensor, weight_KInnn: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
        ctx.plan, ctx.dtype = plan, maps_BIDHW.dtype
        maps_BIDHW = channels_last(maps_BIDHW, dtype)
        ctx.save_for_backward(maps_BIDHW, weight_KInnn)
        with torch.autocast(maps_BIDHW.device.type, enabled=False):
            return convolved(plan.forward, maps_BIDHW, weight_KInnn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        maps_BIDHW, weight_KInnn = ctx.saved_tensors
        gradient_BKDHW = channels_last(gradients[0], maps_BIDHW.dtype)
        of_input = of_weight = None
        with torch.autocast(maps_BIDHW.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_input = input_gradient(ctx.plan.input_gradient, maps_BIDHW, weight_KInnn, gradient_BKDHW)
                of_input = of_input.to(ctx.dtype)
            if ctx.needs_input_grad[1]:
                of_weight = weight_gradient(ctx.plan.weight_gradient, maps_BIDHW, weight_KInnn, gradient_BKDHW)
                of_weight = of_weight.to(weight_KInnn.dtype)
        return of_input, of_weight, None, None


def convolved(way: str, maps_BIDHW: Tensor, weight_KInnn: Tensor) -> Tensor:
    """Return the convolution, in the dtype of the maps (channels last); weights of any dtype."""
    if way in (TORCH, BY_TRIAL):
        weight_KInnn = channels_last(weight_KInnn, maps_BIDHW.dtype)
        arguments = (maps_BIDHW, weight_KInnn, None, _ONE, _ZERO, _ONE, False, _ZERO, 1)
        with _trying(way):
            result: Tensor = torch.ops.aten.convolution(*arguments)
        return result
    if way == PRODUCT:
        return _maps_of(_rows(maps_BIDHW) @ _matrix(weight_KInnn, maps_BIDHW.dtype).t(), maps_BIDHW)
    from hpcseg.networks.kernels import convolution

    return convolution.convolved(maps_BIDHW, weight_KInnn, wide=_wide(way))


def input_gradient(way: str, maps_BIDHW: Tensor, weight_KInnn: Tensor, gradient_BKDHW: Tensor) -> Tensor:
    """Return the gradient of the maps, in their dtype."""
    if way in (TORCH, BY_TRIAL):
        of_input: Tensor = _torch_gradients(way, maps_BIDHW, weight_KInnn, gradient_BKDHW, [True, False, False])[0]
        return of_input
    if way == PRODUCT:
        return _maps_of(_rows(gradient_BKDHW) @ _matrix(weight_KInnn, maps_BIDHW.dtype), maps_BIDHW)
    from hpcseg.networks.kernels import convolution

    return convolution.input_gradient(gradient_BKDHW, weight_KInnn, wide=_wide(way))


def weight_gradient(way: str, maps_BIDHW: Tensor, weight_KInnn: Tensor, gradient_BKDHW: Tensor) -> Tensor:
    """Return the gradient of the weights: of the maps' dtype by torch, float32 by a kernel."""
    if way in (TORCH, BY_TRIAL):
        of_weight: Tensor = _torch_gradients(way, maps_BIDHW, weight_KInnn, gradient_BKDHW, [False, True, False])[1]
        return of_weight
    if way == PRODUCT:
        return (_rows(gradient_BKDHW).t() @ _rows(maps_BIDHW)).view(weight_KInnn.shape)
    from hpcseg.networks.kernels import convolution

    return convolution.weight_gradient(maps_BIDHW, gradient_BKDHW)


def _torch_gradients(way: str, maps: Tensor, weight: Tensor, gradient: Tensor, wanted: list[bool]) -> Any:
    weight = channels_last(weight, maps.dtype)
    arguments = (gradient, maps, weight, None, _ONE, _ZERO, _ONE, False, _ZERO, 1, wanted)
    with _trying(way):
        return torch.ops.aten.convolution_backward(*arguments)


@contextmanager
def _trying(way: str) -> Iterator[None]:
    """Meanwhile cuDNN times its algorithms, if the way says so; not where bits have to repeat: it may choose anew."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or (way == BY_TRIAL and not torch.are_deterministic_algorithms_enabled())
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _rows(maps_BIDHW: Tensor) -> Tensor:
    """The maps of each voxel as a row (B D H W, I); no copy of channels last."""
    return maps_BIDHW.permute(0, 2, 3, 4, 1).flatten(0, 3)


def _maps_of(rows: Tensor, like_BIDHW: Tensor) -> Tensor:
    """Rows of maps as maps of the same voxels, channels last."""
    batch, _, *edges = like_BIDHW.shape
    return rows.view(batch, *edges, -1).permute(0, 4, 1, 2, 3)


def _matrix(weight_KI111: Tensor, dtype: torch.dtype) -> Tensor:
    return weight_KI111.flatten(1).to(dtype)


def _wide(way: str) -> bool:
    return way.endswith("wide")
