"""Batch norm in training mode and ReLU as Triton kernels, for maps that lie channels last.

Forward: partial sums over chunks of voxels, a combination of them in fixed order, which also brings the running
statistics up to date, then normalisation and ReLU at once; 2 reads and 1 write of the maps. Backward: the two sums that
the gradient takes, their combination, then the gradient; 4 reads and 1 write. Only the maps before the norm are kept:
where ReLU was 0 is computed anew.

Variances come near the norm's ε and means may be large beside them. So squares are summed of what is left after the
subtraction of a mean of the chunk's own first voxels, chunks are combined in float64, and the mean is handed on as the
sum of two float32.

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpcseg.networks.kernels import norm_kernels
from hpcseg.networks.layout import channels_last

CHUNKS = 528  # at most; four for each processor of an H100
_TILE = 4096  # elements that one program reads at once, of all tensors together: 32 for each of its 128 threads
_ROWS = 1024  # voxels that one program reads at once, at most
_COMBINED = triton.next_power_of_2(CHUNKS)


class Running(NamedTuple):
    """What a batch norm keeps from one minibatch to the next, and how.

    Attributes:
        mean_K, variance_K: running statistics, float32; the variance is the unbiased one.
        batches: how many there were, int64.
        momentum: share of the running statistics that a minibatch replaces.
        eps: added to the variance.
    """

    mean_K: Tensor
    variance_K: Tensor
    batches: Tensor
    momentum: float
    eps: float


def norm_relu(norm: nn.BatchNorm3d, maps_BKDHW: Tensor) -> Tensor:
    """Return relu(norm(maps_BKDHW)) of a batch norm in training mode, and bring its running statistics up to date.

    Args:
        norm: with float32 weight, bias, running statistics and a momentum.
        maps_BKDHW: bfloat16, float16 or float32, at most 1024 maps, more than one voxel; kept as they are.

    Returns:
        Maps of the same dtype, channels last.
    """
    mean_K, variance_K, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert norm.momentum is not None and mean_K is not None and variance_K is not None and batches is not None
    running = Running(mean_K, variance_K, batches, float(norm.momentum), float(norm.eps))
    normalised: Tensor = NormReLU.apply(maps_BKDHW, norm.weight, norm.bias, running)
    return normalised


class NormReLU(torch.autograd.Function):
    """See `norm_relu`."""

    @staticmethod
    def forward(ctx: Any, maps_BKDHW: Tensor, weight_K: Tensor, bias_K: Tensor, running: Running) -> Tensor:
        """Return the maps; see `norm_relu`."""
        maps_BKDHW = channels_last(maps_BKDHW)
        statistics_3K = statistics(maps_BKDHW, running)
        ctx.save_for_backward(maps_BKDHW, weight_K, bias_K, statistics_3K)
        return normalised(maps_BKDHW, weight_K, bias_K, statistics_3K)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of maps, weight and bias, as far as they are wanted."""
        maps_BKDHW, weight_K, bias_K, statistics_3K = ctx.saved_tensors
        given = channels_last(gradients[0]), maps_BKDHW, weight_K, bias_K, statistics_3K
        sums_2K = gradient_sums(*given)
        of_maps = gradient_of_maps(*given, sums_2K) if ctx.needs_input_grad[0] else None
        of_weight = sums_2K[1] if ctx.needs_input_grad[1] else None
        of_bias = sums_2K[0] if ctx.needs_input_grad[2] else None
        return of_maps, of_weight, of_bias, None


def statistics(maps_BKDHW: Tensor, running: Running) -> Tensor:
    """Return statistics_3K, float32: mean, what it lacks to the mean, 1 / sqrt(biased variance + eps).

    The running statistics and the number of batches are brought up to date.
    """
    rows, maps, tile = _sizes(maps_BKDHW)
    chunk, chunks = _split(rows, tile["ROWS"])
    partial = torch.empty((3, maps, chunks), dtype=torch.float32, device=maps_BKDHW.device)
    norm_kernels.sum_up[(chunks,)](maps_BKDHW, partial, rows, chunk, chunks, **tile, num_warps=4)
    found_3K = torch.empty((3, maps), dtype=torch.float32, device=maps_BKDHW.device)
    *buffers, momentum, eps = running
    norm_kernels.combine_statistics[(maps,)](
        partial, found_3K, *buffers, rows, chunk, chunks, momentum, eps, MAPS=maps, CHUNKS=_COMBINED, num_warps=4
    )
    return found_3K


def normalised(maps_BKDHW: Tensor, weight_K: Tensor, bias_K: Tensor, statistics_3K: Tensor) -> Tensor:
    """Return relu(norm(maps_BKDHW))."""
    out_BKDHW = torch.empty_like(maps_BKDHW)
    rows, _, tile = _sizes(maps_BKDHW)
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    norm_kernels.normalise[grid](maps_BKDHW, weight_K, bias_K, statistics_3K, out_BKDHW, rows, **tile, num_warps=4)
    return out_BKDHW


def gradient_sums(
    gradient_BKDHW: Tensor, maps_BKDHW: Tensor, weight_K: Tensor, bias_K: Tensor, statistics_3K: Tensor
) -> Tensor:
    """Return the gradients of bias and weight, one after the other, float32.

    They are the sums over all voxels where ReLU was not 0 of the gradient, and of it times the normalised maps.
    """
    rows, maps, tile = _sizes(maps_BKDHW, 2)
    chunk, chunks = _split(rows, tile["ROWS"])
    partial = torch.empty((2, maps, chunks), dtype=torch.float32, device=maps_BKDHW.device)
    given = gradient_BKDHW, maps_BKDHW, weight_K, bias_K, statistics_3K
    norm_kernels.sum_up_gradients[(chunks,)](*given, partial, rows, chunk, chunks, **tile, num_warps=4)
    sums_2K = torch.empty((2, maps), dtype=torch.float32, device=maps_BKDHW.device)
    norm_kernels.combine_sums[(maps,)](
        partial, statistics_3K, sums_2K, chunks, MAPS=maps, CHUNKS=_COMBINED, num_warps=4
    )
    return sums_2K


def gradient_of_maps(
    gradient_BKDHW: Tensor,
    maps_BKDHW: Tensor,
    weight_K: Tensor,
    bias_K: Tensor,
    statistics_3K: Tensor,
    sums_2K: Tensor,
) -> Tensor:
    """Return the gradient of the maps before the norm, in their dtype."""
    out_BKDHW = torch.empty_like(maps_BKDHW)
    rows, _, tile = _sizes(maps_BKDHW, 2)
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    given = gradient_BKDHW, maps_BKDHW, weight_K, bias_K, statistics_3K, sums_2K
    norm_kernels.differentiate[grid](*given, out_BKDHW, rows, **tile, num_warps=4)
    return out_BKDHW


def _sizes(maps_BKDHW: Tensor, tensors: int = 1) -> tuple[int, int, dict[str, int]]:
    """Rows (voxels) and maps, and the tile of kernels that see so many such tensors."""
    maps = maps_BKDHW.shape[1]
    return maps_BKDHW.numel() // maps, maps, _tile(maps, tensors)


def _tile(maps: int, tensors: int = 1) -> dict[str, int]:
    """Constants of the kernels that see a tile of voxels by maps of so many tensors."""
    width: int = triton.next_power_of_2(maps)
    return {"MAPS": maps, "WIDTH": width, "ROWS": max(1, min(_TILE // width // tensors, _ROWS))}


def _split(rows: int, tile: int) -> tuple[int, int]:
    """Rows of each chunk but the last (whole tiles), and chunks; the same on every GPU, so that sums are."""
    chunk: int = triton.cdiv(triton.cdiv(rows, CHUNKS), tile) * tile
    return chunk, triton.cdiv(rows, chunk)
