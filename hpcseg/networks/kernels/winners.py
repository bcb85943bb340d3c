"""The largest activations of every feature map, found by Triton kernels that read the code once.

A map is cut into groups of consecutive voxels. Its N winners lie in the N groups with the largest members (of equal
groups, as of equal voxels, the first goes before), so one kernel writes each group's maximum, and another chooses N
groups of a map and then N of their voxels. Activations are compared as integers of the same order: a NaN is larger
than all numbers and equal to any other NaN, as for `torch.topk`, and -0 equals 0.

Shapes: B batch, K feature maps, N winners per map, D H W (z, y, x) edges, V = D · H · W voxels, G groups of a map.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_WINNERS = 32  # more are left to a sort
ROWS = 256  # voxels that are read at a time, of up to MOST_MAPS maps
MOST_MAPS = 32
MOST_GROUPS = 4096  # of a map
MOST_CANDIDATES = 16384  # voxels of the chosen groups

LARGEST = tl.constexpr(0x7FFFFFFF)
INFINITE = tl.constexpr(0x7F800000)  # bits of infinity
NOTHING = tl.constexpr(-(2**63))  # below the key of -infinity


class _TopWinners(torch.autograd.Function):
    """`top` forward; backward, the winners' gradients in their places of an else empty code."""

    @staticmethod
    def forward(ctx: Any, code_BKDHW: Tensor, winners: int) -> tuple[Tensor, Tensor]:
        values_BKN, index_BKN = top(code_BKDHW, winners)
        ctx.mark_non_differentiable(index_BKN)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index_BKN)  # not the code: its shape is all that is needed
        ctx.shape, ctx.dtype, ctx.layout = tuple(code_BKDHW.shape), code_BKDHW.dtype, _layout(code_BKDHW)
        return values_BKN, index_BKN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        gradient_BKN = gradients[0]
        if gradient_BKN is None:
            return None, None
        (index_BKN,) = ctx.saved_tensors
        code_BKDHW = torch.empty(ctx.shape, dtype=ctx.dtype, device=index_BKN.device, memory_format=ctx.layout).zero_()
        place(code_BKDHW, gradient_BKN, index_BKN)
        return code_BKDHW, None


def top_winners(code_BKDHW: Tensor, winners: int) -> tuple[Tensor, Tensor]:
    """`top`, differentiable once; the gradient has the code's dtype and memory format."""
    values_BKN, index_BKN = _TopWinners.apply(code_BKDHW, winners)  # type: ignore[no-untyped-call]
    return values_BKN, index_BKN


def top(code_BKDHW: Tensor, winners: int) -> tuple[Tensor, Tensor]:
    """Find the largest activations of every map of every sample.

    Args:
        code_BKDHW: float32, bfloat16 or float16; fastest with channels last.
        winners: at most D · H · W; more than `MOST_WINNERS` take a sort of every map.

    Returns:
        values_BKN, float32, and index_BKN, int64: largest first, of equal ones that with the smallest flattened
        (z, y, x) index, which is what the index is.
    """
    layout = _layout(code_BKDHW)
    code_BKDHW = code_BKDHW.contiguous(memory_format=layout)
    batch, maps, *edges = code_BKDHW.shape
    voxels = edges[0] * edges[1] * edges[2]
    group = max(ROWS, triton.next_power_of_2(triton.cdiv(voxels, MOST_GROUPS)))
    slots = triton.next_power_of_2(winners)
    if winners > MOST_WINNERS or slots * group > MOST_CANDIDATES:
        return _sorted_top(code_BKDHW, winners)
    groups = triton.cdiv(voxels, group)
    strides = _strides(maps, voxels, layout)
    maxima_BKG = torch.empty((batch, maps, groups), dtype=torch.int32, device=code_BKDHW.device)
    values_BKN = torch.empty((batch, maps, winners), dtype=torch.float32, device=code_BKDHW.device)
    index_BKN = torch.empty((batch, maps, winners), dtype=torch.int64, device=code_BKDHW.device)
    width = min(triton.next_power_of_2(maps), MOST_MAPS)
    grid = (groups, triton.cdiv(maps, width), batch)
    group_maxima[grid](
        code_BKDHW, maxima_BKG, voxels, groups, maps, *strides, GROUP=group, ROWS=ROWS, MAPS=width, num_warps=4
    )
    choose[(maps, batch)](
        code_BKDHW,
        maxima_BKG,
        values_BKN,
        index_BKN,
        voxels,
        groups,
        maps,
        *strides,
        GROUP=group,
        GROUPS=triton.next_power_of_2(groups),
        WINNERS=winners,
        SLOTS=slots,
        num_warps=8,
    )
    return values_BKN, index_BKN


def place(code_BKDHW: Tensor, values_BKN: Tensor, index_BKN: Tensor) -> None:
    """Write values into their places of a code; positions within a map have to differ.

    Args:
        code_BKDHW: contiguous or with channels last; what is in no place of `index_BKN` stays.
        values_BKN: of any floating dtype.
        index_BKN: int64, flattened (z, y, x).
    """
    layout = _layout(code_BKDHW)
    assert code_BKDHW.is_contiguous(memory_format=layout)
    _, maps, winners = index_BKN.shape
    strides = _strides(maps, code_BKDHW[0, 0].numel(), layout)
    count = index_BKN.numel()
    scatter[(triton.cdiv(count, 256),)](
        code_BKDHW, values_BKN.contiguous(), index_BKN.contiguous(), count, maps, winners, *strides, BLOCK=256
    )


def _layout(code_BKDHW: Tensor) -> torch.memory_format:
    """The memory format in which the kernels take a code: its own, if it has one."""
    return torch.contiguous_format if code_BKDHW.is_contiguous() else torch.channels_last_3d


def _strides(maps: int, voxels: int, layout: torch.memory_format) -> tuple[int, int, int]:
    """Distances in elements between samples, maps and voxels; a tensor's own are anything where a size is 1."""
    return (maps * voxels, voxels, 1) if layout == torch.contiguous_format else (maps * voxels, 1, maps)


def _sorted_top(code_BKDHW: Tensor, winners: int) -> tuple[Tensor, Tensor]:
    """`top` for any number of winners: a stable sort, sample by sample for the memory that it takes."""
    ordered = [one.flatten(1).sort(dim=1, descending=True, stable=True) for one in code_BKDHW]
    values_BKN = torch.stack([one.values[:, :winners] for one in ordered]).float()
    return values_BKN, torch.stack([one.indices[:, :winners] for one in ordered])


@triton.jit
def group_maxima(
    code,
    maxima,
    voxels,
    groups,
    maps,
    stride_b,
    stride_k,
    stride_v,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    MAPS: tl.constexpr,
):
    """One program: the maxima of a group of voxels of up to MAPS maps of one sample."""
    group = tl.program_id(0)
    own = tl.program_id(1) * MAPS + tl.arange(0, MAPS)
    sample = tl.program_id(2).to(tl.int64)
    start = code + sample * stride_b + own.to(tl.int64)[None, :] * stride_k
    best = tl.full([ROWS, MAPS], NOTHING >> 32, tl.int32)
    for first in range(0, GROUP, ROWS):
        voxel = group * GROUP + first + tl.arange(0, ROWS)
        inside = (voxel < voxels)[:, None] & (own < maps)[None, :]
        value = tl.load(start + voxel.to(tl.int64)[:, None] * stride_v, mask=inside, other=float("-inf"))
        best = tl.maximum(best, _rank(value))
    tl.store(maxima + (sample * maps + own) * groups + group, tl.max(best, axis=0), mask=own < maps)


@triton.jit
def choose(
    code,
    maxima,
    values,
    index,
    voxels,
    groups,
    maps,
    stride_b,
    stride_k,
    stride_v,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    WINNERS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """One program: the winners of one map of one sample, by way of the groups that hold them."""
    own = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64)
    group = tl.arange(0, GROUPS)
    there = group < groups
    rank = tl.load(maxima + (sample * maps + own) * groups + group, mask=there, other=0)
    chosen = _largest(tl.where(there, _key(rank, group), NOTHING), WINNERS, SLOTS)
    voxel = _position(chosen)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    # With fewer groups than winners some slots hold no group.
    inside = (chosen > NOTHING)[:, None] & (voxel < voxels)
    at = sample * stride_b + own * stride_k + voxel.to(tl.int64) * stride_v
    value = tl.load(code + at, mask=inside, other=0.0)
    keys = tl.where(inside, _key(_rank(value), voxel), NOTHING)
    best = _largest(tl.reshape(keys, [SLOTS * GROUP]), WINNERS, SLOTS)
    slot = tl.arange(0, SLOTS)
    target = (sample * maps + own) * WINNERS + slot
    tl.store(values + target, _value((best >> 32).to(tl.int32)), mask=slot < WINNERS)
    tl.store(index + target, _position(best).to(tl.int64), mask=slot < WINNERS)


@triton.jit
def scatter(code, values, index, count, maps, winners, stride_b, stride_k, stride_v, BLOCK: tl.constexpr):
    """One program: BLOCK values to their places."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    value = tl.load(values + number, mask=inside, other=0.0)
    position = tl.load(index + number, mask=inside, other=0)
    row = number // winners
    at = (row // maps).to(tl.int64) * stride_b + (row % maps).to(tl.int64) * stride_k + position * stride_v
    tl.store(code + at, value.to(code.dtype.element_ty), mask=inside)


@triton.jit
def _largest(keys, WINNERS: tl.constexpr, SLOTS: tl.constexpr):
    """The WINNERS largest of the keys, which differ, in the first of SLOTS; NOTHING where there are no more."""
    slot = tl.arange(0, SLOTS)
    found = tl.full([SLOTS], NOTHING, tl.int64)
    for place in range(WINNERS):
        best = tl.max(keys, axis=0)
        found = tl.where(slot == place, best, found)
        keys = tl.where(keys == best, NOTHING, keys)
    return found


@triton.jit
def _rank(value):
    """int32 in the order of the values."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True)
    size = bits & LARGEST
    rank = tl.where(bits < 0, -size, size)
    return tl.where(size > INFINITE, LARGEST, rank)


@triton.jit
def _value(rank):
    """float32 of a rank."""
    bits = tl.where(rank < 0, -rank | (-LARGEST - 1), rank)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _key(rank, position):
    """int64 in the order of ranks, and of equal ranks backwards in that of positions."""
    return (rank.to(tl.int64) << 32) | (position ^ LARGEST).to(tl.int64)


@triton.jit
def _position(key):
    """int32 of a key."""
    return (key & LARGEST).to(tl.int32) ^ LARGEST
