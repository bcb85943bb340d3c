"""Random changes of a patch's intensities, on all levels alike, where it is trained: after clipping and normalising.

In this order, each with a probability of its own: a curve, gamma, contrast, brightness, blur, noise; so noise is not
blurred, as in a scanner. All numbers of a patch come from its own counters, those of the noise through a seed: they
depend on the kind of device, and not on other patches, ranks or threads.

Shapes: B batch, D edge of a cube; axes are z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpcseg.config import AugmentationConfig, Pair
from hpcseg.patches.buffers import on_device

LEAST_BLUR = 0.2  # voxels; a narrower Gaussian has no weight beside its middle
KNOTS = 5  # of a curve
_REACH = 4.0  # SDs at which a Gaussian is cut off
_SERIAL = 1 << 14  # numbers; so few are computed by one thread, whose roundings do not depend on their place


@dataclass(frozen=True)
class Look:
    """How the intensities of one patch are changed; the defaults change nothing.

    Attributes:
        window: least and largest value that normalisation can give; between them the curve and the exponent act.
        curve: what shares of the window become, at equal distances from the least to the largest; (): what they are.
        exponent: of gamma.
        factor, shift: contrast and brightness; a value v becomes v · factor + shift.
        blur: SD, level-0 voxels.
        noise: SD at level 0.
        seed: of the noise.
    """

    window: Pair = (0.0, 1.0)
    curve: tuple[float, ...] = ()
    exponent: float = 1.0
    factor: float = 1.0
    shift: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0


def draw_look(config: AugmentationConfig, generator: np.random.Generator, window: Pair) -> Look:
    """Draw the changes of one patch; each is the same whatever the largest values of the others.

    Args:
        config: largest values of each.
        generator: of the patch's intensities, see `hpcseg.patches.sampling.Draw`.
        window: least and largest value that normalisation can give.
    """
    wanted_5 = generator.random(5) < config.intensity_share
    share_5 = generator.uniform(-1, 1, 5) * wanted_5
    gamma, contrast, brightness, blur, noise = share_5.tolist()
    seed = int(generator.integers(1 << 62))
    return Look(
        window=window,
        curve=_curve(config.curve, generator) if config.curve and generator.random() < config.intensity_share else (),
        exponent=math.exp(gamma * config.gamma),
        factor=math.exp(contrast * config.contrast),
        shift=brightness * config.brightness,
        blur=abs(blur) * config.blur,
        noise=abs(noise) * config.noise,
        seed=seed,
    )


def change(image_B1DDD: Tensor, level: int, looks: Sequence[Look]) -> None:
    """Change the patches of one level, float32, in place.

    Args:
        image_B1DDD: contiguous.
        level: of its voxels.
        looks: (B) of each patch.
    """
    for image_DDD, look in zip(image_B1DDD[:, 0], looks, strict=True):
        low, high = look.window
        if look.curve and high > low:
            with _as_shares(image_DDD, look.window):
                _bend(image_DDD, look.curve)
        if look.exponent != 1 and high > low:
            with _as_shares(image_DDD, look.window):
                _raise(image_DDD, look.exponent)
        if look.factor != 1:
            image_DDD.mul_(look.factor)
        if look.shift != 0:
            image_DDD.add_(look.shift)
        if look.blur / 2**level >= LEAST_BLUR:
            image_DDD.copy_(blurred(image_DDD, look.blur / 2**level))
        if look.noise > 0:
            generator = torch.Generator(image_DDD.device).manual_seed(look.seed + level)
            noise_DDD = torch.randn(image_DDD.shape, generator=generator, device=image_DDD.device)
            image_DDD.add_(noise_DDD.mul_(look.noise / 2 ** (1.5 * level)))


def blurred(image_DDD: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur, cut off at 4 SD; beyond the cube the nearest voxel counts, as in scipy's mode "nearest"."""
    reach = int(_REACH * sigma + 0.5)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(reach + 1)]
    whole = weights[0] + 2 * sum(weights[1:])
    for axis, size in enumerate(image_DDD.shape):
        places = torch.arange(-reach, size + reach, device=image_DDD.device).clamp_(0, size - 1)
        padded = image_DDD.index_select(axis, places)
        total = padded.narrow(axis, reach, size) * (weights[0] / whole)
        for step in range(1, reach + 1):
            pair = padded.narrow(axis, reach - step, size) + padded.narrow(axis, reach + step, size)
            total.add_(pair.mul_(weights[step] / whole))
        image_DDD = total
    return image_DDD


def _curve(most: float, generator: np.random.Generator) -> tuple[float, ...]:
    """The straight line from 0 to 1, its knots moved by at most `most`: an order of intensities may turn round."""
    knots = np.linspace(0, 1, KNOTS) + generator.uniform(-1, 1, KNOTS) * most
    return tuple(np.clip(knots, 0, 1).tolist())


@contextmanager
def _as_shares(image_DDD: Tensor, window: Pair) -> Iterator[None]:
    """Meanwhile each value is its share of the window, from 0 to 1."""
    low, high = window
    image_DDD.sub_(low).div_(high - low).clamp_(0, 1)
    yield
    image_DDD.mul_(high - low).add_(low)


def _bend(share_DDD: Tensor, curve: Sequence[float]) -> None:
    """Apply a curve, straight between its knots."""
    (knots,) = on_device(share_DDD.device, np.array(curve, np.float32))
    share_DDD.mul_(len(curve) - 1)
    below_DDD = share_DDD.floor().clamp_(max=len(curve) - 2)
    index_DDD = below_DDD.long()
    share_DDD.copy_(torch.lerp(knots[index_DDD], knots[index_DDD + 1], share_DDD.sub_(below_DDD)))


def _raise(share_DDD: Tensor, exponent: float) -> None:
    """Apply an exponent."""
    on_cpu = share_DDD.device.type == "cpu"
    for part in torch.split(share_DDD.view(-1), _SERIAL if on_cpu else share_DDD.numel()):
        part.pow_(exponent)
