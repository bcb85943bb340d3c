"""Nearest-neighbour upsampling by 2, cutting and concatenation as one Triton kernel; its gradient as another.

torch's own upsampling sums gradients on GPUs by atomic additions, whose order, and so the result, changes from run to
run. Here one program adds up the gradients of a coarse voxel, in float32, always in the same order.

Shapes: B batch, K feature maps, D H W (z, y, x) edges. In memory all maps are channels last.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpcseg.networks.layout import CHANNELS_LAST, channels_last

_TILE = 2048  # elements that one program has at once of each of its tensors, at most: 16 for each of its 128 threads
_VOXELS = 64  # of a program, at most


def merged(fine_BKDHW: Tensor, coarse_BKDHW: Tensor) -> Tensor:
    """Concatenate maps with coarser ones, of which every voxel is repeated twice on each axis.

    Args:
        fine_BKDHW: gives the edges of the result.
        coarse_BKDHW: at least half as large, of the same dtype.

    Returns:
        (B, K of both, D, H, W), the fine maps first, channels last.
    """
    both: Tensor = Merge.apply(fine_BKDHW, coarse_BKDHW)
    return both


class Merge(torch.autograd.Function):
    """See `merged`."""

    @staticmethod
    def forward(ctx: Any, fine_BKDHW: Tensor, coarse_BKDHW: Tensor) -> Tensor:
        """Return the maps of both."""
        ctx.shapes = fine_BKDHW.shape, coarse_BKDHW.shape
        return concatenated(channels_last(fine_BKDHW), channels_last(coarse_BKDHW))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the fine and the coarse maps, as far as they are wanted."""
        fine, coarse = ctx.shapes
        return parted(channels_last(gradients[0]), fine, coarse, ctx.needs_input_grad)


def concatenated(fine_BKDHW: Tensor, coarse_BKDHW: Tensor) -> Tensor:
    """Return the maps of both; channels last, as what is given."""
    batch, fine, *edges = fine_BKDHW.shape
    coarse = coarse_BKDHW.shape[1]
    out_BKDHW = _empty((batch, fine + coarse, *edges), fine_BKDHW)
    constants = _constants(fine, coarse)
    grid = (triton.cdiv(edges[0] * edges[1] * edges[2], constants["VOXELS"]), batch)
    sizes = *edges, *coarse_BKDHW.shape[2:]
    _concatenate[grid](fine_BKDHW, coarse_BKDHW, out_BKDHW, *sizes, **constants, num_warps=4)
    return out_BKDHW


def parted(
    gradient_BKDHW: Tensor, fine: torch.Size, coarse: torch.Size, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of maps of the shapes `fine` and `coarse`, None for what is not `wanted`."""
    of_fine = _empty(fine, gradient_BKDHW) if wanted[0] else None
    of_coarse = _empty(coarse, gradient_BKDHW) if wanted[1] else None
    out = [gradient_BKDHW if tensor is None else tensor for tensor in (of_fine, of_coarse)]  # that is not written to
    constants = _constants(fine[1], coarse[1])
    grid = (triton.cdiv(coarse[2] * coarse[3] * coarse[4], constants["VOXELS"]), coarse[0])
    sizes = *fine[2:], *coarse[2:]
    flags = {"OF_FINE": wanted[0], "OF_COARSE": wanted[1]}
    _part[grid](gradient_BKDHW, *out, *sizes, **constants, **flags, num_warps=4)
    return of_fine, of_coarse


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=CHANNELS_LAST)


def _constants(fine: int, coarse: int) -> dict[str, int]:
    """Constants of both kernels."""
    widths = triton.next_power_of_2(fine), triton.next_power_of_2(coarse)
    names = "FINE", "COARSE", "FINE_WIDTH", "COARSE_WIDTH", "VOXELS"
    return dict(zip(names, (fine, coarse, *widths, min(_TILE // max(widths), _VOXELS)), strict=True))


@triton.jit
def _concatenate(
    fine,
    coarse,
    out,
    depth,
    height,
    width,
    coarse_depth,
    coarse_height,
    coarse_width,
    FINE: tl.constexpr,
    COARSE: tl.constexpr,
    FINE_WIDTH: tl.constexpr,
    COARSE_WIDTH: tl.constexpr,
    VOXELS: tl.constexpr,
):
    """Some voxels of one sample's result."""
    sample = tl.program_id(1).to(tl.int64)
    voxel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    z, y, x = voxel // width // height, voxel // width % height, voxel % width
    parent = (z // 2 * coarse_height + y // 2) * coarse_width + x // 2
    inside = (voxel < depth * height * width)[:, None]
    voxel = (sample * depth * height * width + voxel)[:, None]
    parent = (sample * coarse_depth * coarse_height * coarse_width + parent)[:, None]
    column = tl.arange(0, FINE_WIDTH)[None, :]
    mask = inside & (column < FINE)
    value = tl.load(fine + voxel * FINE + column, mask=mask)
    tl.store(out + voxel * (FINE + COARSE) + column, value, mask=mask)
    column = tl.arange(0, COARSE_WIDTH)[None, :]
    mask = inside & (column < COARSE)
    value = tl.load(coarse + parent * COARSE + column, mask=mask)
    tl.store(out + voxel * (FINE + COARSE) + FINE + column, value, mask=mask)


@triton.jit
def _part(
    gradient,
    of_fine,
    of_coarse,
    depth,
    height,
    width,
    coarse_depth,
    coarse_height,
    coarse_width,
    FINE: tl.constexpr,
    COARSE: tl.constexpr,
    FINE_WIDTH: tl.constexpr,
    COARSE_WIDTH: tl.constexpr,
    VOXELS: tl.constexpr,
    OF_FINE: tl.constexpr,
    OF_COARSE: tl.constexpr,
):
    """Some coarse voxels of one sample, with the fine voxels inside them."""
    sample = tl.program_id(1).to(tl.int64)
    parent = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    there = parent < coarse_depth * coarse_height * coarse_width
    z, y, x = parent // coarse_width // coarse_height, parent // coarse_width % coarse_height, parent % coarse_width
    fine_column, coarse_column = tl.arange(0, FINE_WIDTH)[None, :], tl.arange(0, COARSE_WIDTH)[None, :]
    total = tl.zeros([VOXELS, COARSE_WIDTH], tl.float32)
    for child in tl.static_range(8):
        fine_z, fine_y, fine_x = 2 * z + child // 4, 2 * y + child // 2 % 2, 2 * x + child % 2
        inside = (there & (fine_z < depth) & (fine_y < height) & (fine_x < width))[:, None]
        voxel = sample * depth * height * width + (fine_z * height + fine_y) * width + fine_x
        row = gradient + voxel[:, None] * (FINE + COARSE)
        if OF_COARSE:
            mask = inside & (coarse_column < COARSE)
            total += tl.load(row + FINE + coarse_column, mask=mask, other=0.0).to(tl.float32)
        if OF_FINE:
            mask = inside & (fine_column < FINE)
            value = tl.load(row + fine_column, mask=mask)
            tl.store(of_fine + voxel[:, None] * FINE + fine_column, value, mask=mask)
    if OF_COARSE:
        parent = sample * coarse_depth * coarse_height * coarse_width + parent
        mask = there[:, None] & (coarse_column < COARSE)
        value = total.to(of_coarse.dtype.element_ty)
        tl.store(of_coarse + parent[:, None] * COARSE + coarse_column, value, mask=mask)
