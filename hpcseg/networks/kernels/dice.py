"""The sums of which Dice loss and cross-entropy are made, and their gradient, as Triton kernels.

Forward: one pass over the logits, which leaves sums over chunks of voxels; then these are added up in float64, in fixed
order. Backward: one pass, in which the softmax is computed anew. Nothing as large as the logits is kept but them.

Shapes: B batch, C classes with background first, F foreground classes, D H W (z, y, x) edges.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpcseg.networks.layout import is_channels_last

_PROGRAMS = 1024  # about, of a forward pass
COMBINED = 1024  # partial sums that are added up at once
_TILE = 1024  # logits that one program has at once: 8 for each of its 128 threads


def sums(logits_BCDHW: Tensor, label_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what Dice loss and cross-entropy are made of, float32; with p the softmax and t the truth, 0 or 1.

    Args:
        logits_BCDHW: bfloat16, float16 or float32, 2 to 64 classes.
        label_BDHW: int64 class indices; what is no class is of none.

    Returns:
        The mean cross-entropy; for each foreground class, overlap_F, the sum of p t, and total_F, the sum of p + t.
    """
    found: tuple[Tensor, Tensor, Tensor] = DiceSums.apply(logits_BCDHW, label_BDHW)
    return found


class DiceSums(torch.autograd.Function):
    """See `sums`."""

    @staticmethod
    def forward(ctx: Any, logits_BCDHW: Tensor, label_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three sums."""
        if not is_channels_last(logits_BCDHW):
            logits_BCDHW = logits_BCDHW.contiguous()
        label_BDHW = label_BDHW.contiguous()
        ctx.save_for_backward(logits_BCDHW, label_BDHW)
        return summed(logits_BCDHW, label_BDHW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits."""
        return gradient_of_logits(*ctx.saved_tensors, *(gradient.contiguous() for gradient in gradients)), None


def summed(logits_BCDHW: Tensor, label_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `sums`; logits are contiguous or channels last, the label is contiguous."""
    batch, classes = logits_BCDHW.shape[:2]
    voxels, constants = label_BDHW[0].numel(), _constants(logits_BCDHW)
    chunk = triton.cdiv(triton.cdiv(voxels, max(1, _PROGRAMS // batch)), constants["VOXELS"]) * constants["VOXELS"]
    grid = (triton.cdiv(voxels, chunk), batch)
    programs = grid[0] * batch
    partial = _empty(logits_BCDHW, 2 * classes - 1, programs)
    _sum_up[grid](logits_BCDHW, label_BDHW, partial, voxels, chunk, programs, **constants, num_warps=4)
    found = _empty(logits_BCDHW), _empty(logits_BCDHW, classes - 1), _empty(logits_BCDHW, classes - 1)
    _combine[(2 * classes - 1,)](partial, *found, label_BDHW.numel(), programs, classes, SIZE=COMBINED, num_warps=4)
    return found


def gradient_of_logits(
    logits_BCDHW: Tensor, label_BDHW: Tensor, of_cross_entropy: Tensor, of_overlap_F: Tensor, of_total_F: Tensor
) -> Tensor:
    """Return the gradient of the logits, in their dtype and layout, given those of what `summed` returns."""
    out_BCDHW = torch.empty_like(logits_BCDHW)
    voxels, constants = label_BDHW[0].numel(), _constants(logits_BCDHW)
    grid = (triton.cdiv(voxels, constants["VOXELS"]), len(label_BDHW))
    slopes = of_cross_entropy, of_overlap_F, of_total_F
    given = logits_BCDHW, label_BDHW, *slopes, out_BCDHW, voxels, label_BDHW.numel()
    _differentiate[grid](*given, **constants, num_warps=4)
    return out_BCDHW


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _constants(logits_BCDHW: Tensor) -> dict[str, int]:
    """Constants of the kernels that see a tile of voxels by classes."""
    classes = logits_BCDHW.shape[1]
    width: int = triton.next_power_of_2(classes)
    flags = {"CHANNELS_LAST": is_channels_last(logits_BCDHW)}
    return {"CLASSES": classes, "WIDTH": width, "VOXELS": _TILE // width, **flags}


@triton.jit
def _log(value):
    """Logarithm of float32 from 1 on, right to rounding near 1 too, where the GPU's own has an absolute error."""
    part = (value - 1) / (value + 1)
    square = part * part
    series = square * (1 / 15) + 1 / 13
    series = series * square + 1 / 11
    series = series * square + 1 / 9
    series = series * square + 1 / 7
    series = series * square + 1 / 5
    series = series * square + 1 / 3
    series = series * square + 1
    return tl.where(value <= 2, 2 * part * series, tl.log(value))


@triton.jit
def _softmax(logits, index, inside, voxels, CLASSES: tl.constexpr, WIDTH: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Its logarithm and itself for some voxels, the first of which `logits` points to; -inf, 0 beyond the classes."""
    column = tl.arange(0, WIDTH)[None, :]
    mask = inside[:, None] & (column < CLASSES)
    value = tl.load(logits + _place(index, column, voxels, CLASSES, CHANNELS_LAST), mask=mask, other=0.0)
    value = tl.where(column < CLASSES, value.to(tl.float32), float("-inf"))
    value -= tl.max(value, 1)[:, None]
    power = tl.exp(value)
    total = tl.sum(power, 1)
    return value - _log(total)[:, None], tl.div_rn(power, tl.broadcast_to(total[:, None], power.shape))


@triton.jit
def _truth(label, column, CLASSES: tl.constexpr):
    """Whether each class is the label of each voxel."""
    return (label[:, None] == column[None, :]) & (column[None, :] < CLASSES)


@triton.jit
def _place(index, column, voxels, CLASSES: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where the logits of some voxels lie in one sample."""
    return index[:, None] * CLASSES + column if CHANNELS_LAST else index[:, None] + column.to(tl.int64) * voxels


@triton.jit
def _sum_up(
    logits,
    label,
    partial,
    voxels,
    chunk,
    programs,
    CLASSES: tl.constexpr,
    WIDTH: tl.constexpr,
    VOXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Of a chunk of one sample; rows of `partial`: cross-entropy, overlaps, totals."""
    sample = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * chunk
    left = tl.minimum(voxels - first, chunk).to(tl.int32)
    step: tl.constexpr = CLASSES if CHANNELS_LAST else 1  # from voxel to voxel
    logits += sample * voxels * CLASSES + first * step
    label += sample * voxels + first
    index, column = tl.arange(0, VOXELS), tl.arange(0, WIDTH)
    cross_entropy = tl.zeros([VOXELS], tl.float32)
    overlap = tl.zeros([VOXELS, WIDTH], tl.float32)
    total = tl.zeros([VOXELS, WIDTH], tl.float32)
    for start in range(0, left, VOXELS):
        inside = index < left - start
        truth = _truth(tl.load(label + start + index, mask=inside, other=-1), column, CLASSES)
        here = logits + start * step
        logarithm, probability = _softmax(here, index, inside, voxels, CLASSES, WIDTH, CHANNELS_LAST)
        cross_entropy -= tl.sum(tl.where(truth, logarithm, 0.0), 1)
        probability = tl.where(inside[:, None], probability, 0.0)
        overlap += tl.where(truth, probability, 0.0)
        total += probability + truth.to(tl.float32)
    partial += sample * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial, tl.sum(cross_entropy, 0))
    foreground = (column > 0) & (column < CLASSES)
    tl.store(partial + column * programs, tl.sum(overlap, 0), mask=foreground)
    tl.store(partial + (column + CLASSES - 1) * programs, tl.sum(total, 0), mask=foreground)


@triton.jit
def _combine(
    partial,
    cross_entropy,
    overlap,
    total,
    count,
    programs,
    classes,
    SIZE: tl.constexpr,
):
    """Sum up one row of `partial`."""
    row = tl.program_id(0)
    index = tl.arange(0, SIZE)
    partial += row.to(tl.int64) * programs
    sums = tl.zeros([SIZE], tl.float64)
    for start in range(0, programs, SIZE):
        sums += tl.load(partial + start + index, mask=index < programs - start, other=0.0).to(tl.float64)
    found = tl.sum(sums, 0)
    if row == 0:
        tl.store(cross_entropy, (found / count).to(tl.float32))
    elif row < classes:
        tl.store(overlap + row - 1, found.to(tl.float32))
    else:
        tl.store(total + row - classes, found.to(tl.float32))


@triton.jit
def _differentiate(
    logits,
    label,
    of_cross_entropy,
    of_overlap,
    of_total,
    out,
    voxels,
    count,
    CLASSES: tl.constexpr,
    WIDTH: tl.constexpr,
    VOXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Some voxels of one sample's gradient."""
    sample = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * VOXELS
    begin = sample * voxels * CLASSES + (first * CLASSES if CHANNELS_LAST else first)
    index, column = tl.arange(0, VOXELS), tl.arange(0, WIDTH)
    inside = index < voxels - first
    _, probability = _softmax(logits + begin, index, inside, voxels, CLASSES, WIDTH, CHANNELS_LAST)
    label = tl.load(label + sample * voxels + first + index, mask=inside, other=-1)
    truth = _truth(label, column, CLASSES)
    foreground = (column > 0) & (column < CLASSES)
    slope = tl.where(truth, tl.load(of_overlap + column - 1, mask=foreground, other=0.0)[None, :], 0.0)
    slope += tl.load(of_total + column - 1, mask=foreground, other=0.0)[None, :]
    known = ((label >= 0) & (label < CLASSES))[:, None]
    value = tl.where(known, probability, 0.0) - truth.to(tl.float32)
    value *= tl.load(of_cross_entropy) / count
    value += probability * (slope - tl.sum(probability * slope, 1)[:, None])
    mask = inside[:, None] & (column[None, :] < CLASSES)
    out += begin + _place(index, column[None, :], voxels, CLASSES, CHANNELS_LAST)
    tl.store(out, value.to(out.dtype.element_ty), mask=mask)
