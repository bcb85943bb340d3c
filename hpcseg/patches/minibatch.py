"""A minibatch on its way: read as codes into one buffer, one copy to the device that trains, windowed there.

Shapes: B batch, D edge of a level's input box, P edge of the target; axes are z, y, x. `table_B6`: see `codes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from hpcseg import kernels
from hpcseg.patches.buffers import Parts
from hpcseg.patches.codes import COLUMNS, windowed


@dataclass
class Batch:
    """One minibatch.

    Attributes:
        images: (B, 1, D, D, D) float32, bfloat16 or float16 per requested level, in the order requested; normalised.
        label_BDHW: (B, P, P, P) int64 class indices, 0 outside the volume; None for autoencoders.
    """

    images: list[Tensor]
    label_BDHW: Tensor | None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        label_BDHW = None if self.label_BDHW is None else self.label_BDHW.to(device)
        return Batch([image.to(device) for image in self.images], label_BDHW)


class RawBatch(Protocol):
    """A minibatch that was read, but is not yet windowed."""

    def to(self, device: torch.device | str) -> Batch:
        """Window on a device."""


@dataclass(frozen=True)
class CodedBatch:
    """A minibatch as it is stored.

    Attributes:
        images: (B, D, D, D) int16 codes per level.
        label_BDHW: (B, P, P, P) uint8 classes, or None.
        table_B6: (B, 6) float32, how each patch is windowed.
    """

    images: list[Tensor]
    label_BDHW: Tensor | None
    table_B6: Tensor

    def windowed(self, dtype: torch.dtype = torch.float32) -> Batch:
        """Turn codes into a network's input of type `dtype`, on the device where they lie."""
        if kernels.run_on(self.table_B6.device):
            from hpcseg.patches.cubes import whole_rows
            from hpcseg.patches.kernels.gather import cut

            boxes = [*self.images, *([] if self.label_BDHW is None else [self.label_BDHW])]
            return Batch(*cut(whole_rows(boxes), self.table_B6, dtype, self.table_B6.device))
        images = [windowed(codes_BDHW, self.table_B6, dtype) for codes_BDHW in self.images]
        return Batch(images, None if self.label_BDHW is None else self.label_BDHW.to(torch.int64))


@dataclass(frozen=True)
class Layout:
    """Where the parts of a `CodedBatch` lie in one buffer: the table, then each level's boxes, then the labels.

    Attributes:
        batch: patches.
        edges: of the boxes of each level, voxels.
        label: edge of the label; None: no labels.
        dtype: of the images that a network is given.
    """

    batch: int
    edges: tuple[int, ...]
    label: int | None
    dtype: torch.dtype = torch.float32

    @cached_property
    def _parts(self) -> Parts:
        boxes = [((self.batch, edge, edge, edge), torch.int16) for edge in self.edges]
        labels = [] if self.label is None else [((self.batch, *(self.label,) * 3), torch.uint8)]
        return Parts((((self.batch, COLUMNS), torch.float32), *boxes, *labels))

    def buffer(self, *, pinned: bool = False) -> Tensor:
        """Allocate memory for one minibatch; see `buffers.new_buffer`."""
        return self._parts.buffer(pinned=pinned)

    def parts(self, buffer: Tensor) -> CodedBatch:
        """View a buffer, on whatever device, as its parts."""
        table_B6, *boxes = self._parts.views(buffer)
        return CodedBatch(boxes[: len(self.edges)], None if self.label is None else boxes[-1], table_B6)


@dataclass(frozen=True)
class StreamedBatch:
    """A minibatch in one buffer in the host's memory."""

    layout: Layout
    buffer: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Window on a device, after one copy; from pinned memory without waiting. Nothing refers to the buffer then."""
        parts = self.layout.parts(self.buffer.to(device, non_blocking=True))
        return parts.windowed(self.layout.dtype)
