"""One preprocessed scan in memory, read like a case of a chunk store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpcseg.config import Pair
from hpcseg.volumes.boxes import Box, intersection
from hpcseg.volumes.preprocess import Preprocessed
from hpcseg.volumes.pyramid import Coding, Histogram, build_pyramid, choose_coding, count_codes, padding_codes
from hpcseg.volumes.store import LEVELS, StoredCase


@dataclass(frozen=True)
class ScanVolume:
    """The pyramid of a scan in the int16 codes that a store holds: training and inference see the same."""

    levels_zyx: tuple[NDArray[np.int16], ...]
    paddings: tuple[int, ...]  # code outside the volume, per level
    coding: Coding
    crop: Box  # where the volume lies in the scan

    @classmethod
    def of(cls, scan: Preprocessed, clip: Pair | None, levels: int) -> ScanVolume:
        """Build the pyramid of a preprocessed scan."""
        coding = choose_coding(scan.volume_zyx, scan.padding, clip)
        pyramid = build_pyramid(scan.volume_zyx, scan.padding, clip, levels)
        codes = [coding.encode(pyramid.pop()) for _ in range(levels)]  # the coarsest first; each level is let go of
        return cls(
            levels_zyx=tuple(reversed(codes)),
            paddings=padding_codes(coding, scan.padding, clip, levels),
            coding=coding,
            crop=scan.crop,
        )

    @classmethod
    def packed(cls, case: StoredCase) -> ScanVolume:
        """Read a case of a store as a whole: the same as that of the scan that it was packed from.

        Raises:
            StoreError: the voxels are not those that were packed, where the store compares them.
        """
        z, y, x = (slice(int(start), int(stop)) for start, stop in case.attrs["crop"])
        levels_zyx = (case.read(level, (0, 0, 0), case.shape_of(level)) for level in range(LEVELS))
        return cls(tuple(levels_zyx), case.paddings, case.coding, (z, y, x))

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels of level 0."""
        z, y, x = self.levels_zyx[0].shape
        return z, y, x

    @cached_property
    def histogram(self) -> Histogram:
        """Intensities of level 0."""
        codes, counts = count_codes(self.levels_zyx[0])
        return self.coding.decode(codes), counts

    def read(
        self, level: int, start_3: Sequence[int], size_3: Sequence[int], out: NDArray[np.int16] | None = None
    ) -> NDArray[np.int16]:
        """Codes of a box in voxels of `level`, which may reach beyond the volume; written to `out` if given."""
        volume_zyx = self.levels_zyx[level]
        box = np.empty(tuple(size_3), np.int16) if out is None else out
        source, target = intersection(start_3, size_3, volume_zyx.shape)
        box[...] = self.paddings[level]
        box[target] = volume_zyx[source]
        return box
