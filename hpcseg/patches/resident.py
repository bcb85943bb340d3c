"""Volumes that live on the device that trains, and minibatches that are cut from them there.

The codes are those that streaming reads, by the same rule, so that the minibatches are the same to the last bit.

Shapes: B batch, D edge of a level's input box, P edge of the target; axes are z, y, x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcseg.patches.geometry import PatchGeometry
from hpcseg.patches.minibatch import Batch, CodedBatch
from hpcseg.patches.pooling import pool_codes_on_device
from hpcseg.patches.reading import Clip, box_corner, clip_codes, locate, overlap
from hpcseg.volumes.store import LEVELS, StoredCase

Triple = tuple[int, int, int]


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
    def upload(cls, case: StoredCase, clip: Clip | None, device: torch.device) -> ResidentCase:
        """Read all of a case and copy it to a device."""
        levels = [case.read(level, (0, 0, 0), case.shape_of(level)) for level in range(LEVELS)]
        label = torch.from_numpy(case.read_label((0, 0, 0), case.shape_zyx)) if case.labelled else None
        return cls(
            levels=tuple(torch.from_numpy(codes).to(device) for codes in levels),
            label_ZYX=None if label is None else label.to(device),
            paddings=tuple(case.padding_code(level) for level in range(LEVELS)),
            bounds=clip_codes(case, clip),
        )

    def read_box(self, level: int, corner_3: Triple, out_ZYX: Tensor) -> None:
        """Read a cube of one level into `out_ZYX`, as `reading.read_box` does; `corner_3` in level-0 voxels."""
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
    """Cases on one device, each copied there once, when it is first asked for."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._cases: dict[StoredCase, ResidentCase] = {}

    def case(self, stored: StoredCase, clip: Clip | None) -> ResidentCase:
        """Return a stored case as it lies on the device; `clip` is its store's `pyramid_clip`."""
        if stored not in self._cases:
            self._cases[stored] = ResidentCase.upload(stored, clip, self.device)
        return self._cases[stored]


def resident_bytes(cases: Iterable[StoredCase]) -> int:
    """Bytes of device memory that cases take, each counted once: codes of all levels, and labels."""
    return sum(_bytes(case) for case in set(cases))


@dataclass(frozen=True)
class ResidentBatch:
    """A minibatch yet to be cut from resident volumes.

    Attributes:
        cases: (B) the volume of each patch.
        origins: (B) first corner of each target, level-0 voxels.
        geometry: sizes and places of the boxes.
        levels: which boxes, in the order wanted.
        labelled: whether labels are wanted.
        table_B6: how each patch is windowed; in the host's memory.
    """

    cases: Sequence[ResidentCase]
    origins: Sequence[Triple]
    geometry: PatchGeometry
    levels: Sequence[int]
    labelled: bool
    table_B6: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Cut and window where the volumes are, which should be `device`."""
        return self.assemble().windowed().to(device)

    def assemble(self) -> CodedBatch:
        """Cut all boxes and labels, on the volumes' device."""
        device = self.cases[0].levels[0].device
        count = len(self.cases)
        images = []
        for level in self.levels:
            edge = self.geometry.inputs[level]
            codes_BDDD = torch.empty((count, edge, edge, edge), dtype=torch.int16, device=device)
            for case, origin_3, out in zip(self.cases, self.origins, codes_BDDD, strict=True):
                case.read_box(level, box_corner(self.geometry, level, origin_3), out)
            images.append(codes_BDDD)
        label_BPPP = None
        if self.labelled:
            label_BPPP = torch.empty((count, *(self.geometry.patch,) * 3), dtype=torch.uint8, device=device)
            for case, origin_3, out in zip(self.cases, self.origins, label_BPPP, strict=True):
                case.read_label(origin_3, out)
        return CodedBatch(images, label_BPPP, self.table_B6.to(device))


def _copy(volume_ZYX: Tensor, start_3: Triple, out_ZYX: Tensor, outside: int) -> None:
    """Copy the box at `start_3` of a volume, which it may reach beyond."""
    axes = [overlap(*axis) for axis in zip(start_3, out_ZYX.shape, volume_ZYX.shape, strict=True)]
    source, target = (tuple(slices) for slices in zip(*axes, strict=True))
    inside = out_ZYX[target]
    if inside.shape != out_ZYX.shape:
        out_ZYX.fill_(outside)
    inside.copy_(volume_ZYX[source])


def _bytes(case: StoredCase) -> int:
    voxels = [z * y * x for z, y, x in map(case.shape_of, range(LEVELS))]
    return torch.int16.itemsize * sum(voxels) + (voxels[0] if case.labelled else 0)
