"""Resolution levels of a volume and their int16 coding. Pure.

Arrays are z, y, x; intensities are those of the scan (HU for CT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcseg.config import Pair
from hpcseg.spec import IGNORED
from hpcseg.volumes import scratch

CODES = 65_000  # of the 65,536: room for rounding at both ends
_TAILS = (0.1, 99.9)  # percentiles between which intensities are always coded
_WIDENING = 16.0  # the coded range reaches this many widths of that interval beyond it

Histogram = tuple[NDArray[np.float32], NDArray[np.int64]]  # intensities that occur, ascending; how often each does


@dataclass(frozen=True)
class Coding:
    """Intensity = code · slope + intercept; what lies outside the int16 range is coded as its end."""

    slope: float
    intercept: float

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.int16]:
        """Nearest codes of float32 intensities."""
        codes: NDArray[np.int16] = scratch.empty(values.shape, np.int16)
        for planes in scratch.slabs(values.shape):
            part = np.subtract(values[planes], np.float32(self.intercept), dtype=np.float32)
            part *= np.float32(1 / self.slope)
            np.rint(part, out=part)
            np.clip(part, -32768, 32767, out=part)
            codes[planes] = part
            scratch.release(codes)
            scratch.release(values)
        return codes

    def code(self, value: float) -> int:
        """Nearest code of one intensity."""
        return int(np.clip(np.rint((value - self.intercept) / self.slope), -32768, 32767))

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Intensities of codes."""
        values = codes.astype(np.float32)
        values *= np.float32(self.slope)
        values += np.float32(self.intercept)
        return values


def choose_coding(volume: NDArray[np.float32], padding: float, clip: Pair | None = None) -> Coding:
    """Choose the finest power-of-two slope whose codes span the volume's intensities and its padding.

    A few extreme voxels do not cost the rest its resolution (`limits_of`). With `clip`, the clipped intensities are
    codable too.
    The intercept is a multiple of the slope, so integers are coded exactly wherever the slope is 1 or finer.
    """
    least, most = limits_of(volume)
    low, high = max(float(volume.min()), least), min(float(volume.max()), most)
    ends = [low, high, padding]
    if clip is not None:
        ends += [min(max(end, clip[0]), clip[1]) for end in ends]
    low, high = min(ends), max(ends)
    if high == low:
        return Coding(slope=1.0, intercept=float(np.float32(low)))
    slope = 2.0 ** math.ceil(math.log2((high - low) / CODES))
    return Coding(slope=slope, intercept=slope * round((low + high) / 2 / slope))


def limits_of(volume: NDArray[np.float32]) -> Pair:
    """Intensities beyond which there are a few extreme voxels only: 16 widths of the interval between the 0.1 and 99.9
    percentiles away from it; infinite where it has no width."""
    low, high = (percentile(volume, percent) for percent in _TAILS)
    reach = _WIDENING * (high - low) if high > low else math.inf
    return low - reach, high + reach


def percentile(volume: NDArray[np.float32], percent: float) -> float:
    """What `np.percentile` gives; only the voxels on the nearer side are copied: memory for outer percentiles."""
    rank = (volume.size - 1) * (percent / 100)
    below = math.floor(rank)
    ranks = below, min(below + 1, volume.size - 1)
    if percent <= 50:
        low, high = _smallest(volume, 1, ranks[1] + 1)[list(ranks)]
    else:
        low, high = -_smallest(volume, -1, volume.size - below)[[volume.size - 1 - rank for rank in ranks]]
    weight, width = rank - below, float(high - low)
    return float(low) + width * weight if weight < 0.5 else float(high) - width * (1 - weight)


def _smallest(volume: NDArray[np.float32], sign: int, count: int) -> NDArray[np.float32]:
    """The `count` smallest values of `sign` · volume, ascending."""
    kept = np.empty(0, dtype=np.float32)
    for planes in scratch.slabs(volume.shape):
        part = np.multiply(volume[planes], sign, dtype=np.float32).ravel()
        if len(kept) == count:
            part = part[part < kept[-1]]
        part = np.concatenate([kept, part])
        if len(part) > count:
            part.partition(count - 1)
        kept = np.sort(part[:count])
    return kept


def build_pyramid(
    volume_zyx: NDArray[np.float32], padding: float, clip: Pair | None, levels: int
) -> list[NDArray[np.float32]]:
    """Build the levels of a volume, finest first (decision: outside the volume is the padding, at every level).

    Level 0 is the volume itself. Level l ≥ 1 is the 2³ mean of the level above, on the global grid; level 1 comes from
    intensities clipped to `clip`. Its shape is ⌈n / 2⌉: voxels missing at the far end count as the clipped padding.
    """
    outside = _outside(padding, clip)
    pyramid = [volume_zyx]
    for level in range(1, levels):
        pyramid.append(_halved(pyramid[-1], outside, clip if level == 1 else None))
    return pyramid


def padding_codes(coding: Coding, padding: float, clip: Pair | None, levels: int) -> tuple[int, ...]:
    """Code of what lies outside each level that `build_pyramid` makes."""
    return coding.code(padding), *(coding.code(_outside(padding, clip)),) * (levels - 1)


def count_codes(
    codes_zyx: NDArray[np.int16], label_zyx: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Codes that occur, ascending, and how often each does; with a label, in its foreground (`is_foreground`)."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for planes in scratch.slabs(codes_zyx.shape):  # as counting needs 8 bytes a voxel
        codes = codes_zyx[planes].ravel() if label_zyx is None else codes_zyx[planes][is_foreground(label_zyx[planes])]
        counts += np.bincount(codes.astype(np.int64) + 32768, minlength=1 << 16)
    found = np.flatnonzero(counts)
    return (found - 32768).astype(np.int16), counts[found]


def is_foreground(label_zyx: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which voxels are of a class but the background.

    >>> is_foreground(np.array([0, 1, 2, IGNORED], np.uint8)).tolist()
    [False, True, True, False]
    """
    found: NDArray[np.bool_] = (label_zyx > 0) & (label_zyx != IGNORED)
    return found


def _outside(padding: float, clip: Pair | None) -> float:
    """Intensity outside the levels from 1 on."""
    return padding if clip is None else float(np.clip(padding, *clip))


def _halved(volume: NDArray[np.float32], outside: float, clip: Pair | None) -> NDArray[np.float32]:
    """Mean of every cube of 2³ voxels, clipped; voxels missing at the far end are `outside`."""
    z, y, x = (-(-n // 2) for n in volume.shape)
    halved = np.empty((z, y, x), dtype=np.float32)
    for planes in scratch.slabs(halved.shape, scratch.SLAB // 8):
        finer = volume[2 * planes.start : 2 * planes.stop]
        even = np.full((2 * (planes.stop - planes.start), 2 * y, 2 * x), outside, dtype=np.float32)
        inner = even[tuple(slice(n) for n in finer.shape)]
        if clip is None:
            inner[...] = finer
        else:
            np.clip(finer, *clip, out=inner)
        for axis in range(3):
            ahead = (slice(None),) * axis
            even = np.add(even[(*ahead, slice(0, None, 2))], even[(*ahead, slice(1, None, 2))])
        halved[planes] = np.multiply(even, np.float32(1 / 8), out=even)
    return halved
