"""Reading the boxes of a foveal patch from the stored pyramid (design, "One rule for reading a box").

A voxel of level l is the mean of 2^l voxels cubed of level 0, counted from the box's own corner. Where that corner is a
whole voxel of a stored level, that level holds such means already; only the rest of the way is averaged here. All
origins give the same values to the rounding of the int16 coding; aligned ones are cheapest.

Boxes are cubes of int16 codes. Positions are level-0 voxels, z y x, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hpcseg.config import Pair
from hpcseg.host import usable_cores
from hpcseg.patches.codes import pool_codes
from hpcseg.patches.geometry import PatchGeometry, Triple
from hpcseg.volumes.pyramid import Coding
from hpcseg.volumes.store import LEVELS

_THREADS_BESIDE_A_CPU = 2  # its cores are busy with the network
_MOST_THREADS = 8  # read faster than any GPU trains: a minibatch takes one some 10 to 20 ms, a step about as long
Codes = NDArray[np.int16]


class BoxReader(Protocol):
    """A volume at all stored levels: a case of a store, or a scan in memory."""

    @property
    def coding(self) -> Coding:
        """What its codes stand for."""

    def read(self, level: int, start_3: Sequence[int], size_3: Sequence[int], out: Codes | None = None) -> Codes:
        """Codes of a box, in voxels of `level`, written to `out` if given; outside the volume, of the padding."""


class Place(NamedTuple):
    """Where a box of some level is in the stored pyramid.

    Attributes:
        level: the stored level that is read.
        start_3: first voxel, in voxels of that level.
        edge: of the cube that is read, in voxels of that level.
        factor: edge of the cubes of which means are taken; 1: none.
    """

    level: int
    start_3: Triple
    edge: int
    factor: int

    @property
    def size_3(self) -> Triple:
        """Shape of what is read."""
        return self.edge, self.edge, self.edge

    @property
    def clipped(self) -> bool:
        """Whether codes are clipped to the store's `pyramid_clip` before they are averaged: at level 0 they are raw."""
        return self.level == 0 and self.factor > 1


def locate(level: int, corner_3: Triple, size: int) -> Place:
    """Find the stored voxels from which a cube of `size` voxels of `level` is made, given its first corner."""
    stored = stored_level(level, corner_3)
    z, y, x = corner_3
    return Place(stored, (z >> stored, y >> stored, x >> stored), size << (level - stored), 1 << (level - stored))


def stored_level(level: int, corner_3: Triple) -> int:
    """Return the coarsest of the stored levels, but none coarser than `level`, on which the corner is a whole voxel."""
    z, y, x = corner_3
    bits = z | y | x | (1 << min(level, LEVELS - 1))
    return (bits & -bits).bit_length() - 1


def clip_codes(coding: Coding, clip: Pair | None) -> tuple[int, int] | None:
    """Return the codes of the bounds that intensities are clipped to before they are averaged; None for no clip."""
    return None if clip is None else (coding.code(clip[0]), coding.code(clip[1]))


def read_sample(
    case: BoxReader,
    geometry: PatchGeometry,
    origin_3: Triple,
    levels: Sequence[int],
    clip: Pair | None,
    out: Sequence[Codes] | None = None,
) -> list[Codes]:
    """Read the input boxes of one patch, wherever it lies; voxels outside the volume have the padding's code.

    Boxes of a patch overlap: where the stored voxels of a coarser box hold those of a finer one, they are read once.

    Args:
        case: the volume.
        geometry: sizes and places of the boxes.
        origin_3: first corner of the target.
        levels: which boxes, in the order wanted; none twice.
        clip: the store's `pyramid_clip`, that is, what intensities were clipped to before they were averaged.
        out: one array per box, to be written to; None: new ones.

    Returns:
        One cube of codes per level, of edge `geometry.inputs[level]`. Means are exact and rounded once, half to even.
    """
    targets = {} if out is None else dict(zip(levels, out, strict=True))
    boxes: dict[int, Codes] = {}
    wide: dict[int, tuple[Place, Codes]] = {}  # per stored level, what its coarsest box was made from
    for level in sorted(levels, reverse=True):
        place = locate(level, box_corner(geometry, level, origin_3), geometry.inputs[level])
        codes = _cut(*wide[place.level], place) if place.level in wide else None
        if codes is None and place.factor == 1:
            boxes[level] = case.read(place.level, place.start_3, place.size_3, targets.get(level))
            continue
        if codes is None:
            codes = case.read(place.level, place.start_3, place.size_3)
            if not place.clipped:  # it is clipped in place
                wide.setdefault(place.level, (place, codes))
        boxes[level] = _made(case.coding, place, codes, clip, targets.get(level))
    return [boxes[level] for level in levels]


def _cut(wide: Place, codes: Codes, place: Place) -> Codes | None:
    """View of a box of the same stored level within another; None where it lies not wholly within."""
    z, y, x = (start - first for start, first in zip(place.start_3, wide.start_3, strict=True))
    if min(z, y, x) < 0 or max(z, y, x) + place.edge > wide.edge:
        return None
    return codes[z : z + place.edge, y : y + place.edge, x : x + place.edge]


def _made(coding: Coding, place: Place, codes: Codes, clip: Pair | None, out: Codes | None) -> Codes:
    """Clip (in place) and average the codes of a place, or copy them."""
    if place.factor == 1:
        out = np.empty_like(codes, order="C") if out is None else out
        out[...] = codes
        return out
    bounds = clip_codes(coding, clip) if place.clipped else None
    if bounds is not None:
        np.clip(codes, *bounds, out=codes)
    return pool_codes(codes, place.factor, out)


def box_corner(geometry: PatchGeometry, level: int, origin_3: Triple) -> Triple:
    """Return the first corner of a level's input box, given that of the target."""
    z, y, x = origin_3
    offset = geometry.origins[level]
    return z + offset, y + offset, x + offset


def reading_threads(device: torch.device) -> int:
    """How many threads read for a device: beside a GPU, one for each other core that this process may use, 2 to 8."""
    if device.type != "cuda":
        return _THREADS_BESIDE_A_CPU
    return min(_MOST_THREADS, max(_THREADS_BESIDE_A_CPU, usable_cores() - 1))
