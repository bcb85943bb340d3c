"""Volumes that live on the device that trains.

The codes are those that streaming reads, by the same rule, so that minibatches are the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.config import Pair
from hpcseg.patches.codes import pool_codes_on_device
from hpcseg.patches.cubes import Rows, facts
from hpcseg.patches.geometry import Triple
from hpcseg.patches.reading import clip_codes, locate, reading_threads
from hpcseg.volumes.boxes import intersection
from hpcseg.volumes.store import LEVELS, StoredCase

_SLAB = 32  # planes that are read at a time: whole chunks of a store


@dataclass(frozen=True, eq=False)
class ResidentCase:
    """A case of a store on a device.

    Attributes:
        levels: int16 codes of each stored level.
        label_ZYX: uint8 classes of level 0; None for an unlabelled case.
        paddings: code outside the volume, per level.
        bounds: codes that level 0 is clipped to before it is averaged; None: no clip.
    """

    levels: tuple[Tensor, ...]
    label_ZYX: Tensor | None
    paddings: tuple[int, ...]
    bounds: tuple[int, int] | None

    @classmethod
    def upload(
        cls, case: StoredCase, clip: Pair | None, device: torch.device, levels: tuple[Tensor, ...] = ()
    ) -> ResidentCase:
        """Read all of a case, or its label where its `levels` are known, and copy it to a device.

        Any stream of the device may use it then.
        """
        with ThreadPoolExecutor(reading_threads(device), thread_name_prefix="upload") as pool:
            for level in () if levels else range(LEVELS):
                read = partial(case.read, level)
                levels = (*levels, _uploaded(read, case.shape_of(level), torch.int16, device, pool))
            label = _uploaded(case.read_label, case.shape_zyx, torch.uint8, device, pool) if case.labelled else None
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        return cls(
            levels=levels,
            label_ZYX=label,
            paddings=case.paddings,
            bounds=clip_codes(case.coding, clip),
        )

    @property
    def device(self) -> torch.device:
        """Where the case lies."""
        return self.levels[0].device

    @cached_property
    def level_facts(self) -> Rows:
        """What rows of `cubes` say about each level, (LEVELS, 7); only level 0 is clipped before it is averaged."""
        bounds = [self.bounds, *(None,) * (len(self.levels) - 1)]
        return np.array([facts(*of) for of in zip(self.levels, self.paddings, bounds, strict=True)], np.int64)

    @cached_property
    def label_facts(self) -> Rows:
        """The same about the label, (7)."""
        assert self.label_ZYX is not None
        return np.array(facts(self.label_ZYX, 0), np.int64)

    def read_box(self, level: int, corner_3: Triple, out_ZYX: Tensor) -> None:
        """Read a cube of one level into `out_ZYX`, as `reading.read_sample` does; `corner_3` in level-0 voxels."""
        place = locate(level, corner_3, len(out_ZYX))
        volume, padding = self.levels[place.level], self.paddings[place.level]
        if place.factor == 1:
            _copy(volume, place.start_3, out_ZYX, padding)
            return
        codes = out_ZYX.new_empty((place.edge,) * 3)
        _copy(volume, place.start_3, codes, padding)
        if place.clipped and self.bounds is not None:
            codes.clamp_(*self.bounds)
        out_ZYX.copy_(pool_codes_on_device(codes, place.factor))

    def read_stored(self, level: int, start_3: Triple, out_ZYX: Tensor) -> None:
        """Read a box of a stored level into `out_ZYX`, as `StoredCase.read` does; `start_3` in voxels of that level."""
        _copy(self.levels[level], start_3, out_ZYX, self.paddings[level])

    def read_label(self, corner_3: Triple, out_ZYX: Tensor) -> None:
        """Read a box of the label into `out_ZYX`; 0 outside the volume."""
        assert self.label_ZYX is not None
        _copy(self.label_ZYX, corner_3, out_ZYX, 0)


class ResidentCases:
    """Cases on one device, each copied there once, when it is first asked for; with other labels these alone."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._cases: dict[tuple[StoredCase, StoredCase | None], ResidentCase] = {}
        self._levels: dict[StoredCase, tuple[Tensor, ...]] = {}

    def case(self, stored: StoredCase, clip: Pair | None) -> ResidentCase:
        """Return a stored case as it lies on the device; `clip` is its store's `pyramid_clip`."""
        images, labels = _parts(stored)
        if (images, labels) not in self._cases:
            case = ResidentCase.upload(stored, clip, self.device, self._levels.get(images, ()))
            self._cases[images, labels], self._levels[images] = case, case.levels
        return self._cases[images, labels]


def resident_bytes(cases: Iterable[StoredCase]) -> int:
    """Bytes of device memory that cases take: codes of all levels and labels, each counted once."""
    found = {_parts(case): case for case in cases}
    images = {one for one, _ in found}
    labels = sum(math.prod(case.shape_zyx) for case in found.values() if case.labelled)
    return labels + torch.int16.itemsize * sum(
        math.prod(case.shape_of(level)) for case in images for level in range(LEVELS)
    )


def _parts(case: StoredCase) -> tuple[StoredCase, StoredCase | None]:
    """The case that the images are of, and the one that labels were taken from."""
    return case.parts[0] or case, case.parts[1]


class _Reader(Protocol):
    def __call__(self, start_3: Triple, size_3: Triple, out: NDArray[Any], /) -> object:
        """Read a box of an array into `out`."""


def _uploaded(
    read: _Reader, shape_zyx: Triple, dtype: torch.dtype, device: torch.device, pool: ThreadPoolExecutor
) -> Tensor:
    """Read an array slab by slab, by threads, and copy each to the device while the next ones are read."""
    depth, height, width = shape_zyx

    def read_slab(start: int) -> Tensor:
        shape = min(_SLAB, depth - start), height, width
        slab_ZYX = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
        read((start, 0, 0), shape, slab_ZYX.numpy())
        return slab_ZYX

    volume_ZYX = torch.empty(shape_zyx, dtype=dtype, device=device)
    starts = range(0, depth, _SLAB)
    for start, slab_ZYX in zip(starts, pool.map(read_slab, starts), strict=True):
        volume_ZYX[start : start + _SLAB].copy_(slab_ZYX, non_blocking=True)
    return volume_ZYX


def _copy(volume_ZYX: Tensor, start_3: Triple, out_ZYX: Tensor, outside: int) -> None:
    """Copy the box at `start_3` of a volume, which it may reach beyond."""
    source, target = intersection(start_3, out_ZYX.shape, volume_ZYX.shape)
    inside = out_ZYX[target]
    if inside.shape != out_ZYX.shape:
        out_ZYX.fill_(outside)
    inside.copy_(volume_ZYX[source])
