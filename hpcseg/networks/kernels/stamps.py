"""The sparse decoder and its gradients by Triton kernels: a stamp of the kernel at each winner's place.

Nothing is added to from several sides: every program owns what it writes, and sums float32 in a fixed order, so
that results are the same bits every time.

Shapes: B batch, K feature maps, N winners per map, D H W (z, y, x) edges, n kernel edge.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_ZYX = (4, 8, 32)  # voxels of the image that one program sums
TESTED = 256  # stamps tested at a time for whether they reach a tile, at most
SUMMED = 1024  # voxels of a stamp multiplied at a time, at most
TAKEN_STAMPS, TAKEN_VOXELS = 16, 128  # of the weight's gradient, at a time

Shape = tuple[int, int, int]


class _SparseDecode(torch.autograd.Function):
    """`decode` forward, `values_gradient` and `weight_gradient` backward."""

    @staticmethod
    def forward(
        ctx: Any, values_BKN: Tensor, index_BKN: Tensor, weight_K1nnn: Tensor, bias_1: Tensor, code_shape: Shape
    ) -> Tensor:
        ctx.save_for_backward(values_BKN, index_BKN, weight_K1nnn)
        ctx.code_shape = code_shape
        return decode(values_BKN, index_BKN, weight_K1nnn, bias_1, code_shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        values_BKN, index_BKN, weight_K1nnn = ctx.saved_tensors
        gradient_B1DHW = gradients[0].contiguous()
        of_values = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_values = values_gradient(gradient_B1DHW, index_BKN, weight_K1nnn, ctx.code_shape)
        if ctx.needs_input_grad[2]:
            of_weight = weight_gradient(gradient_B1DHW, values_BKN, index_BKN, weight_K1nnn, ctx.code_shape)
        if ctx.needs_input_grad[3]:
            of_bias = gradient_B1DHW.sum(dtype=torch.float32).to(gradient_B1DHW.dtype).reshape(1)
        return of_values, None, of_weight, of_bias, None


def sparse_decode(
    values_BKN: Tensor, index_BKN: Tensor, weight_K1nnn: Tensor, bias_1: Tensor, code_shape: Shape
) -> Tensor:
    """`decode`, differentiable once in values, weight and bias."""
    arguments = (values_BKN, index_BKN, weight_K1nnn, bias_1, code_shape)
    decoded: Tensor = _SparseDecode.apply(*arguments)  # type: ignore[no-untyped-call]
    return decoded


def decode(values_BKN: Tensor, index_BKN: Tensor, weight_K1nnn: Tensor, bias_1: Tensor, code_shape: Shape) -> Tensor:
    """Return the stamps' sum.

    Args:
        values_BKN: float32, bfloat16 or float16.
        index_BKN: int64, positions in a code of the shape `code_shape`, flattened (z, y, x); equal ones add up.
        weight_K1nnn: one of the same dtypes, that of the result.
        bias_1: of the same dtype.
        code_shape: D, H, W of the code.

    Returns:
        image_B1DHW, larger by n - 1 on each axis.
    """
    batch, maps, winners = values_BKN.shape
    edge, (depth, height, width) = _sizes(weight_K1nnn, code_shape)
    tile_z, tile_y, tile_x = TILE_ZYX
    image_B1DHW = weight_K1nnn.new_empty((batch, 1, depth, height, width))
    tiles = triton.cdiv(depth, tile_z) * triton.cdiv(height, tile_y) * triton.cdiv(width, tile_x)
    sum_stamps[(tiles, batch)](
        image_B1DHW,
        values_BKN.contiguous(),
        index_BKN.contiguous(),
        weight_K1nnn.contiguous(),
        bias_1,
        maps * winners,
        winners,
        depth,
        height,
        width,
        EDGE=edge,
        STAMPS=min(triton.next_power_of_2(maps * winners), TESTED),
        TILE_Z=tile_z,
        TILE_Y=tile_y,
        TILE_X=tile_x,
        num_warps=4,
    )
    return image_B1DHW


def values_gradient(gradient_B1DHW: Tensor, index_BKN: Tensor, weight_K1nnn: Tensor, code_shape: Shape) -> Tensor:
    """Return the gradient of the values, in the weight's dtype, given that of the image."""
    batch, maps, winners = index_BKN.shape
    edge, sizes = _sizes(weight_K1nnn, code_shape)
    result_BKN = weight_K1nnn.new_empty((batch, maps, winners))
    sum_windows[(batch * maps * winners,)](
        result_BKN,
        gradient_B1DHW.contiguous(),
        index_BKN.contiguous(),
        weight_K1nnn.contiguous(),
        maps,
        winners,
        *sizes,
        EDGE=edge,
        BLOCK=min(max(triton.next_power_of_2(edge**3), 128), SUMMED),
        num_warps=4,
    )
    return result_BKN


def weight_gradient(
    gradient_B1DHW: Tensor, values_BKN: Tensor, index_BKN: Tensor, weight_K1nnn: Tensor, code_shape: Shape
) -> Tensor:
    """Return the gradient of the weight, of its shape and dtype, given that of the image."""
    batch, maps, winners = index_BKN.shape
    edge, sizes = _sizes(weight_K1nnn, code_shape)
    result_K1nnn = weight_K1nnn.new_empty((maps, 1, edge, edge, edge))
    sum_stamped_windows[(triton.cdiv(edge**3, TAKEN_VOXELS), maps)](
        result_K1nnn,
        gradient_B1DHW.contiguous(),
        values_BKN.contiguous(),
        index_BKN.contiguous(),
        batch * winners,
        maps,
        winners,
        *sizes,
        EDGE=edge,
        STAMPS=TAKEN_STAMPS,
        BLOCK=TAKEN_VOXELS,
        num_warps=4,
    )
    return result_K1nnn


def _sizes(weight_K1nnn: Tensor, code_shape: Shape) -> tuple[int, Shape]:
    """Edge of the kernel, and shape of the image."""
    edge = weight_K1nnn.shape[-1]
    depth, height, width = (size + edge - 1 for size in code_shape)
    return edge, (depth, height, width)


@triton.jit
def sum_stamps(
    image,
    values,
    index,
    weight,
    bias,
    stamps,
    winners,
    depth,
    height,
    width,
    EDGE: tl.constexpr,
    STAMPS: tl.constexpr,
    TILE_Z: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    """One program: a tile of one sample's image, from those of its stamps that reach it, in their order."""
    sample = tl.program_id(1).to(tl.int64)
    values += sample * stamps
    index += sample * stamps
    tile = tl.program_id(0)
    tiles_y = tl.cdiv(height, TILE_Y)
    tiles_x = tl.cdiv(width, TILE_X)
    first_z = tile // (tiles_y * tiles_x) * TILE_Z
    first_y = tile // tiles_x % tiles_y * TILE_Y
    first_x = tile % tiles_x * TILE_X
    voxel = tl.arange(0, TILE_Z * TILE_Y * TILE_X)
    z = first_z + voxel // (TILE_Y * TILE_X)
    y = first_y + voxel // TILE_X % TILE_Y
    x = first_x + voxel % TILE_X
    total = tl.zeros([TILE_Z * TILE_Y * TILE_X], tl.float32) + tl.load(bias).to(tl.float32)
    for first in range(0, stamps, STAMPS):
        stamp = first + tl.arange(0, STAMPS)
        at = tl.load(index + stamp, mask=stamp < stamps, other=0).to(tl.int32)
        at_z, at_y, at_x = _corner(at, height, width, EDGE)
        reaches = (
            (stamp < stamps)
            & (at_z < first_z + TILE_Z)
            & (at_z + EDGE > first_z)
            & (at_y < first_y + TILE_Y)
            & (at_y + EDGE > first_y)
            & (at_x < first_x + TILE_X)
            & (at_x + EDGE > first_x)
        )
        waiting = tl.where(reaches, stamp, stamps)
        own = tl.min(waiting, axis=0)
        while own < stamps:
            corner_z, corner_y, corner_x = _corner(tl.load(index + own).to(tl.int32), height, width, EDGE)
            dz, dy, dx = z - corner_z, y - corner_y, x - corner_x
            inside = (dz >= 0) & (dz < EDGE) & (dy >= 0) & (dy < EDGE) & (dx >= 0) & (dx < EDGE)
            offset = ((own // winners * EDGE + dz) * EDGE + dy) * EDGE + dx
            factor = tl.load(weight + offset, mask=inside, other=0.0).to(tl.float32)
            # Beside the stamp stands no 0 times the value, which may be a NaN.
            total += tl.where(inside, tl.load(values + own).to(tl.float32) * factor, 0.0)
            waiting = tl.where(waiting == own, stamps, waiting)
            own = tl.min(waiting, axis=0)
    target = ((sample * depth + z) * height + y) * width + x
    inside_image = (z < depth) & (y < height) & (x < width)
    tl.store(image + target, total.to(image.dtype.element_ty), mask=inside_image)


@triton.jit
def sum_windows(
    result,
    gradient,
    index,
    weight,
    maps,
    winners,
    depth,
    height,
    width,
    EDGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: the gradient of one value, the window of the image's gradient times the weight."""
    stamp = tl.program_id(0)
    row = stamp // winners
    z, y, x = _corner(tl.load(index + stamp).to(tl.int32), height, width, EDGE)
    corner = (((row // maps).to(tl.int64) * depth + z) * height + y) * width + x
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, EDGE * EDGE * EDGE, BLOCK):
        voxel = first + tl.arange(0, BLOCK)
        inside = voxel < EDGE * EDGE * EDGE
        window = tl.load(gradient + corner + _offset(voxel, height, width, EDGE), mask=inside, other=0.0)
        factor = tl.load(weight + row % maps * (EDGE * EDGE * EDGE) + voxel, mask=inside, other=0.0)
        total += window.to(tl.float32) * factor.to(tl.float32)
    tl.store(result + stamp, tl.sum(total, axis=0).to(result.dtype.element_ty))


@triton.jit
def sum_stamped_windows(
    result,
    gradient,
    values,
    index,
    count,
    maps,
    winners,
    depth,
    height,
    width,
    EDGE: tl.constexpr,
    STAMPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: the gradient of BLOCK weights of one map, from the windows of all `count` stamps of that map."""
    own = tl.program_id(1)
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = voxel < EDGE * EDGE * EDGE
    offset = _offset(voxel, height, width, EDGE)
    total = tl.zeros([STAMPS, BLOCK], tl.float32)
    for first in range(0, count, STAMPS):
        number = first + tl.arange(0, STAMPS)
        there = number < count
        sample = number // winners
        stamp = (sample * maps + own) * winners + number % winners
        value = tl.load(values + stamp, mask=there, other=0.0).to(tl.float32)
        z, y, x = _corner(tl.load(index + stamp, mask=there, other=0).to(tl.int32), height, width, EDGE)
        corner = ((sample.to(tl.int64) * depth + z) * height + y) * width + x
        both = there[:, None] & inside[None, :]
        window = tl.load(gradient + corner[:, None] + offset[None, :], mask=both, other=0.0)
        total += value[:, None] * window.to(tl.float32)
    summed = tl.sum(total, axis=0).to(result.dtype.element_ty)
    tl.store(result + own * (EDGE * EDGE * EDGE) + voxel, summed, mask=inside)


@triton.jit
def _corner(position, height, width, EDGE: tl.constexpr):
    """z, y, x of a position in the code, which is where its stamp begins in an image of this height and width."""
    code_height = height - (EDGE - 1)
    code_width = width - (EDGE - 1)
    plane = position // code_width
    return plane // code_height, plane % code_height, position % code_width


@triton.jit
def _offset(voxel, height, width, EDGE: tl.constexpr):
    """Distance of a stamp's voxel from the stamp's corner, in an image of this height and width."""
    return (voxel // (EDGE * EDGE) * height + voxel // EDGE % EDGE) * width + voxel % EDGE
