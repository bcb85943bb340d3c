"""Winner-take-all sparsity, and the decoder that makes use of it (paper 3.3; docs/fidelity.md).

Of each feature map only the N largest activations survive, so a transposed convolution of the code is nothing but
K · N stamps of the kernel per sample. `sparse_decode` writes those stamps. On GPUs both are done
by kernels of `hpcseg.networks.kernels`.

Shapes: B batch, K feature maps, N winners per map, D H W (z, y, x) edges, n kernel edge, S = B · K · N stamps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpcseg import kernels

CHUNK_ELEMENTS = 8_000_000  # stamp voxels at a time: 64 MB of positions, 32 MB of values


class Winners(NamedTuple):
    """The surviving activations of a code.

    Attributes:
        values_BKN: largest first.
        index_BKN: int64, position of each in its map, flattened (z, y, x).
    """

    values_BKN: Tensor
    index_BKN: Tensor


def top_winners(code_BKDHW: Tensor, winners: int, lifetime: float = 0.0) -> Winners:
    """Keep the `winners` largest activations of every map of every sample; gradients reach those alone.

    A NaN counts as the largest. Of equal activations kernels keep those of the smallest index; torch alone, any.

    Args:
        code_BKDHW: feature maps, of any floating dtype; fastest with channels last.
        winners: activations that survive per map and sample (spatial sparsity).
        lifetime: share of the samples that survive per map, those with the strongest activations; rounded down, but
            at least one. All winners of the others become 0 (Makhzani and Frey's lifetime sparsity). 0: all survive.

    Returns:
        Values of float32, or of float64 if the code is. Differentiable once where kernels run.

    Raises:
        ValueError: a map has fewer than `winners` voxels.
    """
    voxels = code_BKDHW.shape[2:].numel()
    if not 1 <= winners <= voxels:
        raise ValueError(f"{winners} winners are wanted of maps of {voxels} voxels; choose from 1 to {voxels}")
    if kernels.run_on(code_BKDHW.device) and _fits(code_BKDHW):
        from hpcseg.networks.kernels import winners as by_kernels

        values_BKN, index_BKN = by_kernels.top_winners(code_BKDHW, winners)
    else:
        values_BKN, index_BKN = torch.topk(code_BKDHW.flatten(2), winners, dim=2)
        values_BKN = values_BKN.to(torch.promote_types(values_BKN.dtype, torch.float32))
    if lifetime > 0:
        samples = max(int(lifetime * len(values_BKN) + 1e-6), 1)  # 0.29 · 100 is just below 29
        strongest_BK = values_BKN[:, :, 0].detach()
        sample_B1 = torch.arange(len(values_BKN), device=values_BKN.device)[:, None]
        alive_BK = (sample_B1[:, None] == strongest_BK.topk(samples, dim=0).indices).any(dim=1)
        values_BKN = values_BKN * alive_BK[:, :, None]
    return Winners(values_BKN, index_BKN)


def dense_code(winners: Winners, code_shape: tuple[int, int, int]) -> Tensor:
    """Return code_BKDHW of the shape `code_shape`: the winners in their places, 0 elsewhere."""
    batch, maps, _ = winners.values_BKN.shape
    code_BKV = winners.values_BKN.new_zeros((batch, maps, code_shape[0] * code_shape[1] * code_shape[2]))
    return code_BKV.scatter(2, winners.index_BKN, winners.values_BKN).view(batch, maps, *code_shape)


def sparse_decode(winners: Winners, weight_K1nnn: Tensor, bias_1: Tensor, code_shape: tuple[int, int, int]) -> Tensor:
    """Transposed convolution (stride 1) of the code that holds the winners and is 0 elsewhere.

    The same bits every time on a CPU and where kernels run. Torch alone on a GPU adds stamps in any order, unless
    `torch.use_deterministic_algorithms` asks otherwise.

    Args:
        winners: of a code whose maps have the shape `code_shape`.
        weight_K1nnn: as of `torch.nn.ConvTranspose3d`; its dtype is that of the result, whatever the winners' is.
        bias_1: one number.
        code_shape: D, H, W of the code.

    Returns:
        image_B1DHW, larger by n - 1 on each axis. Differentiable once in values, weight and bias.
    """
    values_BKN = winners.values_BKN.to(weight_K1nnn.dtype)
    arguments = (values_BKN, winners.index_BKN, weight_K1nnn, bias_1, code_shape)
    if kernels.run_on(values_BKN.device) and _fits(values_BKN):
        from hpcseg.networks.kernels import stamps

        image_B1DHW: Tensor = stamps.sparse_decode(*arguments)
    else:
        image_B1DHW = _SparseDecode.apply(*arguments)  # type: ignore[no-untyped-call]
    return image_B1DHW


def _fits(tensor: Tensor) -> bool:
    """Whether the kernels take it; its first axis is the batch."""
    return tensor.dtype in kernels.DTYPES and len(tensor) <= kernels.MOST_SAMPLES


class _SparseDecode(torch.autograd.Function):
    """Stamps forward; windows of the output's gradient backward."""

    @staticmethod
    def forward(
        ctx: Any,
        values_BKN: Tensor,
        index_BKN: Tensor,
        weight_K1nnn: Tensor,
        bias_1: Tensor,
        code_shape: tuple[int, int, int],
    ) -> Tensor:
        ctx.save_for_backward(values_BKN, index_BKN, weight_K1nnn)
        ctx.code_shape = code_shape
        batch, maps, count = values_BKN.shape
        edge = weight_K1nnn.shape[-1]
        image_shape = (batch, 1, *(size + edge - 1 for size in code_shape))
        image = bias_1.expand(image_shape).flatten().contiguous()
        weight_Kt = weight_K1nnn.reshape(maps, -1)
        for rows, positions_St in _stamps(index_BKN, code_shape, edge):
            stamps_St = weight_Kt.index_select(0, _maps_of(rows, maps, count, image.device))
            stamps_St *= values_BKN.flatten()[rows, None]
            image.index_add_(0, positions_St.flatten(), stamps_St.flatten())
        return image.view(image_shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        values_BKN, index_BKN, weight_K1nnn = ctx.saved_tensors
        _, maps, count = values_BKN.shape
        gradient = gradients[0].flatten()
        weight_Kt = weight_K1nnn.reshape(maps, -1)
        values_gradient_S = torch.empty_like(values_BKN).flatten()
        weight_gradient_Kt = torch.zeros_like(weight_Kt)
        for rows, positions_St in _stamps(index_BKN, ctx.code_shape, weight_K1nnn.shape[-1]):
            windows_St = gradient.index_select(0, positions_St.flatten()).view_as(positions_St)
            owners_S = _maps_of(rows, maps, count, gradient.device)
            values_gradient_S[rows] = (windows_St * weight_Kt.index_select(0, owners_S)).sum(dim=1)
            weight_gradient_Kt.index_add_(0, owners_S, windows_St * values_BKN.flatten()[rows, None])
        return (
            values_gradient_S.view_as(values_BKN),
            None,
            weight_gradient_Kt.view_as(weight_K1nnn),
            gradient.sum().reshape(1),
            None,
        )


def _stamps(index_BKN: Tensor, code_shape: tuple[int, int, int], edge: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield chunks of stamps: which ones, and where their voxels lie in the flattened image, (S, n³) int64."""
    device = index_BKN.device
    _, code_height, code_width = code_shape
    depth, height, width = (size + edge - 1 for size in code_shape)
    batch = torch.arange(index_BKN.shape[0], device=device).view(-1, 1, 1)
    plane = index_BKN // (code_height * code_width)
    row = index_BKN // code_width % code_height
    corner_S = (((batch * depth + plane) * height + row) * width + index_BKN % code_width).flatten()
    side = torch.arange(edge, device=device)
    offset_t = ((side.view(-1, 1, 1) * height + side.view(-1, 1)) * width + side).flatten()
    chunk = max(1, CHUNK_ELEMENTS // len(offset_t))
    for first in range(0, len(corner_S), chunk):
        rows = slice(first, min(first + chunk, len(corner_S)))
        yield rows, corner_S[rows, None] + offset_t


def _maps_of(rows: slice, maps: int, count: int, device: torch.device) -> Tensor:
    """Return the feature map of each stamp of the slice."""
    return torch.arange(rows.start, rows.stop, device=device) // count % maps
