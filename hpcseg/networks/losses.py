"""What training minimises (paper 3.1.1, 3.3; docs/fidelity.md).

All losses are computed in float32, whatever the networks' precision, and in a deterministic order. A minibatch may be
spread over processes: with a `reduce`, which sums a tensor over them, the loss of the whole minibatch results on each.

Shapes: B batch, C classes with background first, D H W (z, y, x) edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from hpcseg import kernels

if TYPE_CHECKING:
    from hpcseg.config import AutoencoderConfig, TrainingConfig

Reduce = Callable[[Tensor], Tensor]
SMOOTHING = 1e-5
MAX_CLASSES = 64  # of the kernels


def segmentation_loss(
    config: TrainingConfig,
    logits_BCDHW: Tensor,
    label_BDHW: Tensor,
    reduce: Reduce | None = None,
    *,
    partly: bool = False,
) -> Tensor:
    """The configured loss of a segmentation: see `dice_ce` and `focal`; with `partly`, of voxels that have a class."""
    if partly:
        return _of_known(config, logits_BCDHW, label_BDHW, reduce)
    if config.loss == "focal":
        return _mean_of_all(focal(logits_BCDHW, label_BDHW, config.focal_gamma), len(label_BDHW), reduce)
    return dice_ce(logits_BCDHW, label_BDHW, reduce)


def reconstruction_error(
    config: AutoencoderConfig, reconstruction_B1DHW: Tensor, image_B1DHW: Tensor, reduce: Reduce | None = None
) -> Tensor:
    """The configured loss of an autoencoder: see `huber` and `l2`."""
    if config.loss == "l2":
        own = l2(reconstruction_B1DHW, image_B1DHW)
    else:
        own = huber(reconstruction_B1DHW, image_B1DHW, config.huber_delta)
    return _mean_of_all(own, len(image_B1DHW), reduce)


def _of_known(config: TrainingConfig, logits_BCDHW: Tensor, label_BDHW: Tensor, reduce: Reduce | None) -> Tensor:
    """The configured loss of the voxels whose label is not `IGNORED`, in all of the minibatch."""
    log_probability = functional.log_softmax(logits_BCDHW.float(), dim=1)
    from hpcseg.spec import IGNORED  # losses are computed without pydantic, too

    known_B1DHW = (label_BDHW != IGNORED)[:, None].float()
    truth = _one_hot(label_BDHW, logits_BCDHW.shape[1])  # of no class where it is ignored
    if config.loss == "focal":
        own, parts = _focal(log_probability, truth, config.focal_gamma).sum(), []
    else:
        probability, over_batch = log_probability[:, 1:].exp() * known_B1DHW, (0, 2, 3, 4)
        overlap = (probability * truth[:, 1:]).sum(dim=over_batch)
        own = -(truth * log_probability).sum()
        parts = [overlap, probability.sum(dim=over_batch) + truth[:, 1:].sum(dim=over_batch)]
    sums = torch.cat([torch.stack([own, known_B1DHW.sum()]), *parts])
    sums = sums if reduce is None else reduce(sums)
    mean = sums[0] / sums[1].clamp_min(1)
    if config.loss == "focal":
        return mean
    overlap, total = sums[2:].chunk(2)
    return mean + 1 - ((2 * overlap + SMOOTHING) / (total + SMOOTHING)).mean()


def masked_error(
    config: AutoencoderConfig,
    reconstruction_B1DHW: Tensor,
    image_B1DHW: Tensor,
    mask_B1DHW: Tensor,
    reduce: Reduce | None = None,
) -> Tensor:
    """The configured loss of an autoencoder, its mean over the voxels of a mask in all of the minibatch; 0 of none."""
    made, image = reconstruction_B1DHW.float(), image_B1DHW.float()
    if config.loss == "l2":
        error = functional.mse_loss(made, image, reduction="none") / 2
    else:
        error = functional.huber_loss(made, image, reduction="none", delta=config.huber_delta)
    sums = torch.stack(((error * mask_B1DHW).sum(), mask_B1DHW.sum().float()))
    total, voxels = (sums if reduce is None else reduce(sums)).unbind()
    return total / voxels.clamp_min(1)


def dice_ce(logits_BCDHW: Tensor, label_BDHW: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Soft Dice loss plus mean cross-entropy.

    Dice is nnU-Net's: of the softmax, per foreground class over the whole batch, smoothed by 1e-5 in numerator and
    denominator, averaged over the classes, and counted as 1 - Dice.

    Args:
        logits_BCDHW: network output.
        label_BDHW: int64 class indices.
        reduce: where this is a part of the minibatch.

    Returns:
        A scalar of at least 0.
    """
    cross_entropy, overlap, total = _dice_ce_sums(logits_BCDHW, label_BDHW)
    if reduce is not None:
        overlap, total = reduce(torch.stack((overlap, total)))
    dice = (2 * overlap + SMOOTHING) / (total + SMOOTHING)
    return 1 - dice.mean() + _mean_of_all(cross_entropy, len(label_BDHW), reduce)


def _dice_ce_sums(logits_BCDHW: Tensor, label_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy; for each foreground class the sum of softmax times truth, and of softmax plus truth."""
    if kernels.run_on(logits_BCDHW.device) and _fit(logits_BCDHW, label_BDHW):
        from hpcseg.networks.kernels import dice

        return dice.sums(logits_BCDHW, label_BDHW)
    log_probability = functional.log_softmax(logits_BCDHW.float(), dim=1)
    truth = _one_hot(label_BDHW, logits_BCDHW.shape[1])
    cross_entropy = -(truth * log_probability).sum(dim=1).mean()
    probability, truth = log_probability[:, 1:].exp(), truth[:, 1:]
    over_batch = (0, 2, 3, 4)
    overlap = (probability * truth).sum(dim=over_batch)
    return cross_entropy, overlap, probability.sum(dim=over_batch) + truth.sum(dim=over_batch)


def focal(logits_BCDHW: Tensor, label_BDHW: Tensor, gamma: float) -> Tensor:
    """Mean focal loss over all voxels: -(1 - p)^gamma log p, where p is the softmax of the voxel's true class.

    All classes weigh the same. With `gamma` 0 it is the cross-entropy.

    Args:
        logits_BCDHW: network output.
        label_BDHW: int64 class indices.
        gamma: at least 0; the larger, the less voxels count that are right already.

    Returns:
        A scalar of at least 0.
    """
    log_probability = functional.log_softmax(logits_BCDHW.float(), dim=1)
    return _focal(log_probability, _one_hot(label_BDHW, logits_BCDHW.shape[1]), gamma).mean()


def _focal(log_probability: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Focal loss of each voxel; 0 where it has no class."""
    log_of_truth = (truth * log_probability).sum(dim=1)
    # Not quite 0, where a power below 1 has no derivative.
    doubt = (-log_of_truth.expm1()).clamp_min(torch.finfo(torch.float32).tiny)
    return -(doubt**gamma * log_of_truth)


def huber(reconstruction_B1DHW: Tensor, image_B1DHW: Tensor, delta: float) -> Tensor:
    """Mean Huber loss over all voxels: e²/2 up to |e| = delta, delta (|e| - delta/2) beyond."""
    return functional.huber_loss(reconstruction_B1DHW.float(), image_B1DHW.float(), delta=delta)


def l2(reconstruction_B1DHW: Tensor, image_B1DHW: Tensor) -> Tensor:
    """Mean of e²/2 over all voxels: what `huber` is for small errors (paper 3.4)."""
    return functional.mse_loss(reconstruction_B1DHW.float(), image_B1DHW.float()) / 2


def _mean_of_all(own: Tensor, samples: int, reduce: Reduce | None) -> Tensor:
    """Mean over the whole minibatch, given the mean over this part's samples, which all are of one size."""
    if reduce is None:
        return own
    count = torch.full_like(own, samples)
    total, whole = reduce(torch.stack((own * count, count))).unbind()
    return total / whole


def _one_hot(label_BDHW: Tensor, classes: int) -> Tensor:
    """Return truth_BCDHW, float32; torch's own losses of class indices have no deterministic CUDA kernels."""
    classes_C = torch.arange(classes, device=label_BDHW.device)
    return (label_BDHW[:, None] == classes_C.view(-1, 1, 1, 1)).float()


def _fit(logits_BCDHW: Tensor, label_BDHW: Tensor) -> bool:
    """Whether the kernels take these."""
    return (
        logits_BCDHW.dtype in kernels.DTYPES
        and label_BDHW.dtype == torch.int64
        and label_BDHW.device == logits_BCDHW.device
        and label_BDHW.shape == (len(logits_BCDHW), *logits_BCDHW.shape[2:])
        and 1 < logits_BCDHW.shape[1] <= MAX_CLASSES
        and 0 < len(label_BDHW) <= kernels.MOST_SAMPLES
    )
