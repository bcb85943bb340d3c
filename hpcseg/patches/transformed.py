"""Minibatches seen through random transforms: boxes of codes in one buffer, interpolated where training takes place.

The boxes of a minibatch vary in shape, so they are packed: a buffer has room for the largest that can be drawn, and
only its used part goes to the device. Streamed and resident volumes fill the same buffer, so they give the same bits.

Shapes: B batch, K cubes of a patch (one per level, then the label), N elements; axes are z, y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpcseg import kernels
from hpcseg.config import AugmentationConfig
from hpcseg.patches.augmentation import Transform, View, largest_box, view
from hpcseg.patches.buffers import Parts, aligned, new_buffer, on_device
from hpcseg.patches.codes import COLUMNS, windowed
from hpcseg.patches.cubes import Rows, box_row
from hpcseg.patches.geometry import PatchGeometry, Triple
from hpcseg.patches.interpolation import linear, nearest
from hpcseg.patches.minibatch import Batch
from hpcseg.patches.reading import box_corner
from hpcseg.patches.resident import ResidentCase
from hpcseg.patches.source import Source


class Box(NamedTuple):
    """What is read for one cube of one patch: of which patch, whether of the label, and the bytes it fills."""

    slot: int
    is_label: bool
    view: View
    start: int
    end: int


@dataclass(frozen=True)
class Views:
    """A minibatch of transformed patches, before any voxel was read.

    Attributes:
        boxes: to be read.
        header: what says how to show them, the first bytes of the buffer, uint8; in the host's memory.
        used: bytes of the buffer, boxes included.
    """

    boxes: Sequence[Box]
    header: Tensor
    used: int


@dataclass(frozen=True)
class ViewLayout:
    """What transformed patches consist of, and how their boxes are packed.

    A buffer holds the table (see `codes`), then the maps and places of all cubes (see `interpolation`), then boxes.

    Attributes:
        batch: patches.
        geometry: sizes and places of the untransformed cubes.
        levels: which cubes, in the order wanted.
        labelled: whether there are labels.
        config: bounds the transforms, and so the boxes.
        dtype: of the images that a network is given.
    """

    batch: int
    geometry: PatchGeometry
    levels: tuple[int, ...]
    labelled: bool
    config: AugmentationConfig
    dtype: torch.dtype = torch.float32

    @cached_property
    def capacity(self) -> int:
        """Bytes of the largest minibatch that can be drawn."""
        patch = sum(
            aligned(largest_box(self.config, level, size) ** 3 * dtype.itemsize) for level, size, dtype in self._cubes
        )
        return self._header.nbytes + self.batch * patch

    def buffer(self, *, pinned: bool = False) -> Tensor:
        """Allocate memory for any minibatch; see `buffers.new_buffer`."""
        return new_buffer(self.capacity, pinned=pinned)

    def views(self, origins: Sequence[Triple], transforms: Sequence[Transform], table_B6: Tensor) -> Views:
        """Plan a minibatch: which boxes show the patches at `origins` through their `transforms`."""
        header = torch.zeros(self._header.nbytes, dtype=torch.uint8)
        table, map_KB34, places_KB3 = self._header.views(header)
        table[...] = table_B6
        boxes, used = [], len(header)
        for slot, (origin_3, transform) in enumerate(zip(origins, transforms, strict=True)):
            for cube, (level, size, dtype) in enumerate(self._cubes):
                is_label = cube == len(self.levels)
                corner_3 = origin_3 if is_label else box_corner(self.geometry, level, origin_3)
                shown = view(level, corner_3, size, transform)
                depth, height, width = shown.shape_3
                end = used + depth * height * width * dtype.itemsize
                boxes.append(Box(slot, is_label, shown, used, end))
                map_KB34[cube, slot] = torch.from_numpy(shown.map_34)
                places_KB3[cube, slot] = torch.tensor([used // dtype.itemsize, height * width, width])
                used = aligned(end)
        return Views(boxes, header, used)

    def show(self, buffer: Tensor) -> Batch:
        """Interpolate and window the patches of a filled buffer, on the device where it lies."""
        table_B6, map_KB34, places_KB3 = self._header.views(buffer)
        codes_N, images = buffer.view(torch.int16), []
        for cube, level in enumerate(self.levels):
            values_BDDD = linear(codes_N, places_KB3[cube], map_KB34[cube], self.geometry.inputs[level])
            images.append(windowed(values_BDDD, table_B6, self.dtype))
        if not self.labelled:
            return Batch(images, None)
        label_BPPP = nearest(buffer, places_KB3[-1], map_KB34[-1], self.geometry.patch)
        return Batch(images, label_BPPP.to(torch.int64))

    @cached_property
    def _cubes(self) -> list[tuple[int, int, torch.dtype]]:
        """Level, edge and type of what each patch shows."""
        images = [(level, self.geometry.inputs[level], torch.int16) for level in self.levels]
        return [*images, (0, self.geometry.patch, torch.uint8)] if self.labelled else images

    @cached_property
    def _header(self) -> Parts:
        """Table, maps and places."""
        count = len(self._cubes)
        maps, places = (count, self.batch, 3, 4), (count, self.batch, 3)
        return Parts((((self.batch, COLUMNS), torch.float32), (maps, torch.float32), (places, torch.int32)))


@dataclass(frozen=True)
class StreamedViews:
    """A minibatch of transformed patches in one buffer in the host's memory; `buffer` is its used part."""

    layout: ViewLayout
    buffer: Tensor

    @classmethod
    def read(cls, layout: ViewLayout, sources: Sequence[Source], views: Views, buffer: Tensor) -> StreamedViews:
        """Read all boxes from the stores of `sources` (B) into `buffer`."""
        buffer[: len(views.header)] = views.header
        memory = buffer.numpy()
        for slot, is_label, (level, start_3, shape_3, _), start, end in views.boxes:
            case, piece = sources[slot].case, memory[start:end]
            if is_label:
                case.read_label(start_3, shape_3, piece.reshape(shape_3))
            else:
                case.read(level, start_3, shape_3, piece.view(np.int16).reshape(shape_3))
        return cls(layout, buffer[: views.used])

    def to(self, device: torch.device | str) -> Batch:
        """Interpolate and window on a device, after one copy; from pinned memory without waiting."""
        return self.layout.show(self.buffer.to(device, non_blocking=True))


@dataclass(frozen=True)
class ResidentViews:
    """A minibatch of transformed patches, yet to be cut from the resident volumes `cases` (B)."""

    layout: ViewLayout
    cases: Sequence[ResidentCase]
    views: Views

    def to(self, device: torch.device | str) -> Batch:
        """Cut, interpolate and window where the volumes are, which should be `device`."""
        home = self.cases[0].levels[0].device
        if kernels.run_on(home):
            return self.layout.show(self._copied(home)).to(device)
        buffer = torch.empty(self.views.used, dtype=torch.uint8, device=home)
        buffer[: len(self.views.header)] = self.views.header.to(home)
        for slot, is_label, (level, start_3, shape_3, _), start, end in self.views.boxes:
            case, piece = self.cases[slot], buffer[start:end]
            if is_label:
                case.read_label(start_3, piece.view(shape_3))
            else:
                case.read_stored(level, start_3, piece.view(torch.int16).view(shape_3))
        return self.layout.show(buffer).to(device)

    def _copied(self, home: torch.device) -> Tensor:
        """The filled buffer, by one kernel."""
        from hpcseg.patches.kernels.gather import copy_boxes

        (header,) = on_device(home, self.views.header.numpy())
        buffer = torch.empty(self.views.used, dtype=torch.uint8, device=home)
        buffer[: len(header)] = header
        copy_boxes(self.rows(buffer), home)
        return buffer

    def rows(self, buffer: Tensor) -> Rows:
        """Where the boxes lie, and where they go in `buffer`, see `cubes.Column`."""
        rows = []
        for slot, is_label, (level, start_3, shape_3, _), start, _ in self.views.boxes:
            case = self.cases[slot]
            facts_7 = case.label_facts if is_label else case.level_facts[level]
            rows.append(box_row(facts_7.tolist(), start_3, shape_3, is_label, buffer.data_ptr() + start))
        return np.array(rows, np.int64)
