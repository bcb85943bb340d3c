"""Batch norm over a minibatch that is spread over ranks: mean and variance are those of all its samples.

torch's own SyncBatchNorm is for GPUs alone; this one is the same on every device, so that what is tested on CPUs holds.

Shapes: B batch (this rank's part), K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hpcseg.training.ranks import Ranks

_SAMPLES = (0, 2, 3, 4)  # every axis but the feature maps'


def share_statistics(module: nn.Module, ranks: Ranks, *, compiled: bool = False) -> None:
    """Let all batch norms of a network take their statistics over all ranks; parameters and buffers stay the same.

    Args:
        module: the network.
        ranks: who trains it; nothing changes where one does.
        compiled: it is going to be compiled, from which these batch norms are left out.
    """
    if ranks.world == 1:
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm3d:
                norm = SharedBatchNorm(child, ranks)
                if compiled:
                    norm.forward = torch.compiler.disable(norm.forward)  # type: ignore[method-assign, no-untyped-call]
                setattr(parent, name, norm)


class SharedBatchNorm(nn.BatchNorm3d):
    """`own`, with its parameters and buffers, over the minibatch of all ranks; as `own` in evaluation mode."""

    def __init__(self, own: nn.BatchNorm3d, ranks: Ranks) -> None:
        super().__init__(own.num_features, own.eps, own.momentum)
        self.weight, self.bias = own.weight, own.bias
        self.running_mean, self.running_var = own.running_mean, own.running_var
        self.num_batches_tracked = own.num_batches_tracked
        self.train(own.training)
        self._ranks = ranks

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Normalise maps_BKDHW; the result has its dtype, statistics are float32 at least."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        mean_K, variance_K, voxels = _statistics(input.detach(), self._ranks)
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_K, momentum)
            self.running_var.lerp_(variance_K * voxels / (voxels - 1), momentum)
        arguments = (input, self.weight, self.bias, mean_K, variance_K, voxels, self.eps, self._ranks)
        normalised: Tensor = _Normalise.apply(*arguments)  # type: ignore[no-untyped-call]
        return normalised


def _statistics(maps_BKDHW: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each map over all ranks, and how many voxels they are of."""
    own_K = maps_BKDHW.sum(_SAMPLES, dtype=torch.promote_types(maps_BKDHW.dtype, torch.float32))
    total = ranks.add_up(torch.cat((own_K, own_K.new_full((1,), maps_BKDHW.numel() // len(own_K)))))
    voxels, mean_K = total[-1], total[:-1] / total[-1]
    # In a second round, from what is left: the mean square less the squared mean would lose digits.
    squares_K = (maps_BKDHW - _over_maps(mean_K)).square_().sum(_SAMPLES)
    return mean_K, ranks.add_up(squares_K) / voxels, voxels


class _Normalise(torch.autograd.Function):
    """Normalisation whose gradient also goes through the statistics, on all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        maps_BKDHW: Tensor,
        weight_K: Tensor,
        bias_K: Tensor,
        mean_K: Tensor,
        variance_K: Tensor,
        voxels: Tensor,
        eps: float,
        ranks: Ranks,
    ) -> Tensor:
        ctx.save_for_backward(maps_BKDHW, weight_K, mean_K, (variance_K + eps).rsqrt(), voxels)
        ctx.ranks = ranks
        return functional.batch_norm(maps_BKDHW, mean_K, variance_K, weight_K, bias_K, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None, None, None]:
        maps_BKDHW, weight_K, mean_K, scale_K, voxels = ctx.saved_tensors
        (gradient_BKDHW,) = gradients
        centred_BKDHW = maps_BKDHW - _over_maps(mean_K)
        own_K = gradient_BKDHW.sum(_SAMPLES, dtype=mean_K.dtype)
        along_K = (gradient_BKDHW * centred_BKDHW).sum(_SAMPLES)
        of_maps = None
        if ctx.needs_input_grad[0]:
            shift_K, slope_K = ctx.ranks.add_up(torch.stack((own_K, along_K))) / voxels
            centred_BKDHW *= _over_maps(slope_K * scale_K.square())
            of_maps = gradient_BKDHW - _over_maps(shift_K) - centred_BKDHW
            of_maps = of_maps.mul_(_over_maps(scale_K * weight_K)).to(maps_BKDHW.dtype)
        # Of weight and bias this rank's part, as of every parameter: `Ranks.sum_gradients` adds them up.
        return of_maps, along_K * scale_K, own_K, None, None, None, None, None


def _over_maps(values_K: Tensor) -> Tensor:
    return values_K.view(1, -1, 1, 1, 1)
