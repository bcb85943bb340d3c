"""One preprocessed scan in memory, read like a case of a chunk store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpcseg.config import Pair
from hpcseg.patches.reading import overlap
from hpcseg.volumes.preprocess import Preprocessed
from hpcseg.volumes.pyramid import Coding, build_pyramid, choose_coding
from hpcseg.volumes.slabs import slabs

_CODES = 1 << 16


@dataclass(frozen=True)
class ScanVolume:
    """The pyramid of a scan in the int16 codes that a store would hold: training and inference see the same."""

    levels_zyx: tuple[NDArray[np.int16], ...]
    paddings: tuple[int, ...]  # code outside the volume, per level
    coding: Coding

    @classmethod
    def of(cls, scan: Preprocessed, clip: Pair | None, levels: int) -> ScanVolume:
        """Build the pyramid of a preprocessed scan."""
        coding = choose_coding(scan.volume_zyx, scan.padding, clip)
        pyramid = build_pyramid(scan.volume_zyx, scan.padding, clip, levels)
        outside = np.array([scan.padding, scan.padding if clip is None else np.clip(scan.padding, *clip)], np.float32)
        codes = coding.encode(outside)
        return cls(
            levels_zyx=tuple(coding.encode(level) for level in pyramid),
            paddings=tuple(int(codes[min(level, 1)]) for level in range(levels)),
            coding=coding,
        )

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels of level 0."""
        z, y, x = self.levels_zyx[0].shape
        return z, y, x

    @property
    def slope(self) -> float:
        """Intensity = code · slope + intercept."""
        return self.coding.slope

    @property
    def intercept(self) -> float:
        """Intensity of code 0."""
        return self.coding.intercept

    @property
    def levels(self) -> int:
        """Number of levels of the pyramid."""
        return len(self.levels_zyx)

    @cached_property
    def histogram(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Intensities that occur at level 0, ascending, and how often."""
        counts = np.zeros(_CODES, np.int64)
        for planes in slabs(self.shape_zyx):
            codes = self.levels_zyx[0][planes].ravel().astype(np.int32)
            counts += np.bincount(codes + _CODES // 2, minlength=_CODES)
        present = np.flatnonzero(counts)
        return self.decode((present - _CODES // 2).astype(np.int16)), counts[present]

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Intensities of codes."""
        return self.coding.decode(codes)

    def read(
        self, level: int, start_3: Sequence[int], size_3: Sequence[int], out: NDArray[np.int16] | None = None
    ) -> NDArray[np.int16]:
        """Codes of a box in voxels of `level`, which may reach beyond the volume; written to `out` if given."""
        volume_zyx = self.levels_zyx[level]
        box = np.empty(tuple(size_3), np.int16) if out is None else out
        axes = [overlap(*axis) for axis in zip(start_3, size_3, volume_zyx.shape, strict=True)]
        source, target = (tuple(slices) for slices in zip(*axes, strict=True))
        box[...] = self.paddings[level]
        box[target] = volume_zyx[source]
        return box
