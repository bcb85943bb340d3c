"""Minibatches seen through random changes: boxes of codes in one buffer, interpolated where training takes place.

The boxes of a minibatch vary in shape, so they are packed: a buffer has room for the largest that can be drawn, and
only its used part goes to the device. Streamed and resident volumes fill the same buffer, so they give the same bits.

Shapes: B batch, K cubes of a patch (one per level, then the label), N elements or control points along an axis, D edge
of a cube; axes are z, y, x.
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
from hpcseg.patches.augmentation import View, largest_box, view
from hpcseg.patches.buffers import Parts, aligned, on_device
from hpcseg.patches.codes import COLUMNS, windowed
from hpcseg.patches.cubes import Rows, box_row
from hpcseg.patches.elastic import ControlGrid, Taps, positions
from hpcseg.patches.intensity import Look, change
from hpcseg.patches.interpolation import Bends, linear, nearest
from hpcseg.patches.minibatch import Batch, Drawn, Layout
from hpcseg.patches.reading import box_corner
from hpcseg.volumes.store import LEVELS


class ViewBox(NamedTuple):
    """What is read for one cube of one patch: of which patch, whether of the label, and the bytes it fills."""

    slot: int
    is_label: bool
    view: View
    start: int
    end: int


@dataclass(frozen=True)
class ViewPlan:
    """A minibatch of transformed patches, before any voxel was read.

    Attributes:
        drawn: where the patches lie.
        boxes: to be read.
        header: what says how to show them, the first bytes of the buffer, uint8; in the host's memory.
        used: bytes of the buffer, boxes included.
    """

    drawn: Drawn
    boxes: Sequence[ViewBox]
    header: Tensor
    used: int


@dataclass(frozen=True)
class TransformedLayout(Layout[ViewPlan]):
    """A buffer holds the table (see `codes`), the maps and places of all cubes (see `interpolation`), then boxes.

    Where patches are deformed, control vectors and the taps of all cubes (see `elastic`) stand before the boxes.

    Attributes:
        augmentation: bounds the transforms, and so the boxes.
    """

    augmentation: AugmentationConfig

    @cached_property
    def capacity(self) -> int:
        """Bytes of the largest minibatch that can be drawn."""
        patch = sum(
            aligned(largest_box(self.augmentation, level, size) ** 3 * dtype.itemsize)
            for level, size, dtype in self._cubes
        )
        return self._header.nbytes + self.batch * patch

    def plan(self, drawn: Drawn) -> ViewPlan:
        """Find the boxes that show the patches through their transforms."""
        header = torch.zeros(self._header.nbytes, dtype=torch.uint8)
        table, map_KB34, places_KB3, *bends = self._header.views(header)
        table[...] = drawn.table_B6
        if self.grid is not None:
            controls_B3NNN, *taps = bends
            for controls_3NNN, transform in zip(controls_B3NNN, drawn.transforms, strict=True):
                controls_3NNN.copy_(torch.from_numpy(transform.controls_3NNN))
            for part, values in zip(taps, self._taps, strict=True):
                part.copy_(values)
        boxes, used = [], len(header)
        for slot, (origin_3, transform) in enumerate(zip(drawn.origins, drawn.transforms, strict=True)):
            for cube, (level, size, dtype) in enumerate(self._cubes):
                is_label = cube == len(self.levels)
                corner_3 = origin_3 if is_label else box_corner(self.geometry, level, origin_3)
                shown = view(level, corner_3, size, transform)
                depth, height, width = shown.shape_3
                end = used + depth * height * width * dtype.itemsize
                boxes.append(ViewBox(slot, is_label, shown, used, end))
                map_KB34[cube, slot] = torch.from_numpy(shown.map_34)
                places_KB3[cube, slot] = torch.tensor([used // dtype.itemsize, height * width, width])
                used = aligned(end)
        return ViewPlan(drawn, boxes, header, used)

    def read(self, plan: ViewPlan, buffer: Tensor) -> Tensor:
        """See `Layout`."""
        buffer[: len(plan.header)] = plan.header
        memory = buffer.numpy()
        for slot, is_label, (level, start_3, shape_3, _), start, end in plan.boxes:
            case, piece = plan.drawn.sources[slot].case, memory[start:end]
            if is_label:
                case.read_label(start_3, shape_3, piece.reshape(shape_3))
            else:
                case.read(level, start_3, shape_3, piece.view(np.int16).reshape(shape_3))
        return buffer[: plan.used]

    def cut(self, plan: ViewPlan) -> Batch:
        """See `Layout`; boxes are copied by one kernel where kernels run."""
        residents = plan.drawn.residents
        home = residents[0].device
        buffer = torch.empty(plan.used, dtype=torch.uint8, device=home)
        (header,) = on_device(home, plan.header.numpy())
        buffer[: len(header)] = header
        if kernels.run_on(home):
            from hpcseg.patches.kernels.gather import copy_boxes

            copy_boxes(self.rows(plan, buffer), home)
        else:
            for slot, is_label, (level, start_3, shape_3, _), start, end in plan.boxes:
                case, piece = residents[slot], buffer[start:end]
                if is_label:
                    case.read_label(start_3, piece.view(shape_3))
                else:
                    case.read_stored(level, start_3, piece.view(torch.int16).view(shape_3))
        return self.decoded(buffer, plan.drawn.looks)

    def rows(self, plan: ViewPlan, buffer: Tensor) -> Rows:
        """Where the boxes lie in resident volumes, and where they go in `buffer`, see `cubes.Column`."""
        rows, residents = [], plan.drawn.residents
        for slot, is_label, (level, start_3, shape_3, _), start, _ in plan.boxes:
            facts_7 = residents[slot].label_facts if is_label else residents[slot].level_facts[level]
            rows.append(box_row(facts_7.tolist(), start_3, shape_3, is_label, buffer.data_ptr() + start))
        return np.array(rows, np.int64)

    def decoded(self, buffer: Tensor, looks: Sequence[Look] = ()) -> Batch:
        """See `Layout`: interpolated, then decoded, then changed; what is changed is rounded to `dtype` afterwards."""
        table_B6, map_KB34, places_KB3, *parts = self._header.views(buffer)
        bends = self._bends(*parts) if parts else [None] * len(self._cubes)
        codes_N, images = buffer.view(torch.int16), []
        for cube, level in enumerate(self.levels):
            size = self.geometry.inputs[level]
            values_BDDD = linear(codes_N, places_KB3[cube], map_KB34[cube], size, bends[cube])
            image_B1DDD = windowed(values_BDDD, table_B6, torch.float32 if looks else self.dtype)
            if looks:
                change(image_B1DDD, level, looks)
            images.append(image_B1DDD.to(self.dtype))
        if not self.labelled:
            return Batch(images, None)
        label_BPPP = nearest(buffer, places_KB3[-1], map_KB34[-1], self.geometry.patch, bends[-1])
        return Batch(images, label_BPPP.to(torch.int64))

    @cached_property
    def grid(self) -> ControlGrid | None:
        """Control points of a patch's deformation, whichever levels are wanted; None: patches are not deformed."""
        if self.augmentation.elastic == 0:
            return None
        return ControlGrid.over(self.geometry, self.augmentation.elastic_spacing)

    def _bends(self, controls_B3NNN: Tensor, *taps: Tensor) -> list[Bends | None]:
        """The deformation of each cube; control vectors in voxels of the level that is stored, a power of two."""
        made = zip(self._cubes, taps[::2], taps[1::2], strict=True)
        return [Bends(controls_B3NNN / 2 ** min(level, LEVELS - 1), Taps(*own)) for (level, _, _), *own in made]

    @cached_property
    def _taps(self) -> list[Tensor]:
        """Of every cube, where there is a grid: the two tensors of `Taps`."""
        found: list[Tensor] = []
        if self.grid is not None:
            for cube, (level, size, _) in enumerate(self._cubes):
                corner = 0 if cube == len(self.levels) else self.geometry.origins[level]
                found += map(torch.from_numpy, self.grid.taps(positions(self.geometry, level, corner, size)))
        return found

    @cached_property
    def _cubes(self) -> list[tuple[int, int, torch.dtype]]:
        """Level, edge and type of what each patch shows."""
        images = [(level, self.geometry.inputs[level], torch.int16) for level in self.levels]
        return [*images, (0, self.geometry.patch, torch.uint8)] if self.labelled else images

    @cached_property
    def _header(self) -> Parts:
        """Table, maps and places; control vectors and taps where there are any."""
        count = len(self._cubes)
        maps, places = (count, self.batch, 3, 4), (count, self.batch, 3)
        parts = [((self.batch, COLUMNS), torch.float32), (maps, torch.float32), (places, torch.int32)]
        if self.grid is not None:
            parts.append(((self.batch, 3, *(self.grid.count,) * 3), torch.float32))
        return Parts((*parts, *((tuple(part.shape), part.dtype) for part in self._taps)))
