"""A small fingerprint of a scan, by which `likeness` finds it again in other files. Pure.

`volume_zyx` is canonical (RAS+, z, y, x), of any order in memory. A fingerprint holds some 50 KB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # of a thumbnail and of its slices
SLICE_MM = 10.0
MOST_SLICES = 1000  # 10 m: what is longer has a wrong header, and would take all memory
SAME_STEP = 1e-6  # relative
_SAMPLE = 200_000  # voxels among which a step is sought

Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a scan to find it again.

    Attributes:
        digest: of shape and voxels in canonical order; the same for another dtype or orientation on disk.
        bag: of the voxels in any order; the same even if the header's orientation was lost.
        step: of which all intensities are multiples, where it is no round number; a scanner chooses it for each scan.
        thumbnail: (16, 16, 16) block means.
        slices: (n, 16, 16): every 10 mm from bottom to top, cut to the body.
    """

    digest: str
    bag: str
    step: float | None
    thumbnail: Floats
    slices: Floats


def fingerprint(volume_zyx: Floats, spacing_zyx: Sequence[float], window: tuple[float, float]) -> Fingerprint:
    """Fingerprint of a scan.

    Args:
        volume_zyx: intensities.
        spacing_zyx: mm.
        window: intensities between which tissue is seen.
    """
    return Fingerprint(
        digest=content_digest(volume_zyx),
        bag=f"{sorted(volume_zyx.shape)}{_bag(volume_zyx)}",
        step=intensity_step(volume_zyx),
        thumbnail=_ranks(_block_means(volume_zyx, (SIDE,) * 3)),
        slices=_ranks(_body_slices(volume_zyx, spacing_zyx, window)),
    )


def content_digest(array: NDArray[Any]) -> str:
    """sha256 of shape and values, in C order whatever the order in memory."""
    content = hashlib.sha256(repr(array.shape).encode())
    for plane in array:
        content.update(np.ascontiguousarray(plane).data)
    return content.hexdigest()


def sample(array: NDArray[Scalar], most: int) -> NDArray[Scalar]:
    """At most `most` values: all of them, or always the same random places."""
    if array.size <= most:
        return array.ravel()
    chosen: NDArray[Scalar] = array.flat[np.random.default_rng(0).integers(array.size, size=most)]
    return chosen


def intensity_step(volume_zyx: Floats) -> float | None:
    """The step of which all intensities (less the lowest) are multiples, if there is one and it is no round number."""
    levels = np.unique(sample(volume_zyx, _SAMPLE)).astype(np.float64)
    levels -= levels[0]
    gaps = np.diff(levels)
    gaps = gaps[gaps > 1e-6 * levels[-1]]
    if len(gaps) < 32:
        return None
    step = float(gaps.min())
    for most in (64, 4096, np.inf):  # few multiples first: a small error of the step grows with them
        multiples = np.rint(levels / step)
        near = (multiples > 0) & (multiples <= most)
        if near.any():
            step = float(multiples[near] @ levels[near] / (multiples[near] @ multiples[near]))
    multiples = np.rint(levels / step)
    is_grid = np.abs(levels / step - multiples).max() < 0.05 and multiples[-1] < 2**17
    return step if is_grid and not _is_round(step) else None


def _bag(volume: Floats) -> int:
    """Sum of the mixed bits of all voxels, whatever their order."""
    total = 0
    for plane in volume:
        bits = np.array(plane, order="C").view(np.uint32)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # MurmurHash3's finaliser
            bits ^= bits >> np.uint32(shift)
            bits *= np.uint32(factor)
        total += int(bits.sum(dtype=np.uint64))
    return total


def _is_round(step: float) -> bool:
    """Whether three digits write it, or it is a whole number or one over it: a choice of software, not of one scan."""
    candidates = (float(f"{step:.3g}"), round(step), 1 / max(1, round(1 / step)))
    return any(abs(step - near) < SAME_STEP * step for near in candidates)


def _block_means(array: Floats, shape: Sequence[int]) -> Floats:
    """Means of blocks that cover the array; axes that are shorter repeat their values."""
    for axis, n in enumerate(shape):
        size = array.shape[axis]
        starts = [block * size // n for block in range(n)]
        blocks = [
            array[(slice(None),) * axis + (slice(start, max(start + 1, end)),)].mean(axis=axis)
            for start, end in zip(starts, [*starts[1:], size], strict=True)
        ]
        array = np.stack(blocks, axis=axis)
    return array


def _body_slices(volume: Floats, spacing_zyx: Sequence[float], window: tuple[float, float]) -> Floats:
    low, high = window
    count = max(1, round(min(volume.shape[0] * spacing_zyx[0] / SLICE_MM, MOST_SLICES)))
    slabs = _block_means(volume, (count,))
    np.clip(slabs, low, high, out=slabs)
    found = []
    for slab in slabs:
        tissue = slab > low + 0.1 * (high - low)
        y, x = (np.flatnonzero(tissue.mean(axis=axis) > 0.1) for axis in (1, 0))
        is_body = len(y) > SIDE and len(x) > SIDE
        body = slab[y[0] : y[-1] + 1, x[0] : x[-1] + 1] if is_body else slab
        found.append(_block_means(body[None], (1, SIDE, SIDE))[0])
    return np.stack(found)


def _ranks(array: Floats) -> Floats:
    """Ranks as shares of 1: the same for any brightness and contrast."""
    from scipy.stats import rankdata  # which takes a second to import

    ranks: Floats = (rankdata(array) / array.size).astype(np.float32).reshape(array.shape)
    return ranks
