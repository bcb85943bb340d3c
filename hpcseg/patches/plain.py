"""Minibatches of patches as they lie in the volumes: all boxes of a level have one shape.

Shapes: B batch, D edge of a level's input box, P edge of the target; axes are z, y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hpcseg import kernels
from hpcseg.patches.buffers import Parts
from hpcseg.patches.codes import COLUMNS, windowed
from hpcseg.patches.cubes import Rows, foveal_rows, whole_rows
from hpcseg.patches.intensity import Look
from hpcseg.patches.minibatch import Batch, Drawn, Layout
from hpcseg.patches.reading import box_corner, read_sample


@dataclass(frozen=True)
class PlainLayout(Layout[Drawn]):
    """A buffer holds the table (see `codes`), then each level's boxes (B, D, D, D), then the labels (B, P, P, P)."""

    @cached_property
    def parts(self) -> Parts:
        """Table, int16 codes of each level, uint8 labels if there are any."""
        edges = [self.geometry.inputs[level] for level in self.levels]
        boxes = [((self.batch, edge, edge, edge), torch.int16) for edge in edges]
        labels = [((self.batch, *(self.geometry.patch,) * 3), torch.uint8)] if self.labelled else []
        return Parts((((self.batch, COLUMNS), torch.float32), *boxes, *labels))

    @property
    def capacity(self) -> int:
        """Bytes of each minibatch."""
        return self.parts.nbytes

    def plan(self, drawn: Drawn) -> Drawn:
        """The boxes follow from where the patches lie."""
        return drawn

    def read(self, plan: Drawn, buffer: Tensor) -> Tensor:
        """See `Layout`."""
        table_B6, *boxes = self.parts.views(buffer)
        table_B6[...] = plan.table_B6
        images, edge_3 = [box.numpy() for box in boxes], (self.geometry.patch,) * 3
        labels = images.pop() if self.labelled else None
        for slot, (source, origin_3) in enumerate(zip(plan.sources, plan.origins, strict=True)):
            out = [image[slot] for image in images]
            read_sample(source.case, self.geometry, origin_3, self.levels, source.pyramid_clip, out)
            if labels is not None:
                source.case.read_label(origin_3, edge_3, labels[slot])
        return buffer

    def cut(self, plan: Drawn) -> Batch:
        """See `Layout`; by one kernel where kernels run."""
        home = plan.residents[0].device
        if kernels.run_on(home):
            from hpcseg.patches.kernels.gather import cut

            return Batch(*cut(self.rows(plan), plan.table_B6.numpy(), self.dtype, home))
        buffer = torch.empty(self.capacity, dtype=torch.uint8, device=home)
        table_B6, *boxes = self.parts.views(buffer)
        table_B6.copy_(plan.table_B6)
        for slot, (case, origin_3) in enumerate(zip(plan.residents, plan.origins, strict=True)):
            for level, box in zip(self.levels, boxes, strict=False):
                case.read_box(level, box_corner(self.geometry, level, origin_3), box[slot])
            if self.labelled:
                case.read_label(origin_3, boxes[-1][slot])
        return self.decoded(buffer)

    def rows(self, plan: Drawn) -> Rows:
        """Where the boxes and labels lie in resident volumes, see `cubes.foveal_rows`."""
        levels_BL7 = np.stack([case.level_facts for case in plan.residents])
        labels_B7 = np.stack([case.label_facts for case in plan.residents]) if self.labelled else None
        return foveal_rows(levels_BL7, labels_B7, plan.origins, self.geometry, self.levels)

    def decoded(self, buffer: Tensor, looks: Sequence[Look] = ()) -> Batch:
        """See `Layout`; patches as they lie in the volumes are not changed otherwise, and have no looks."""
        table_B6, *boxes = self.parts.views(buffer)
        if kernels.run_on(buffer.device):
            from hpcseg.patches.kernels.gather import cut

            return Batch(*cut(whole_rows(boxes), table_B6, self.dtype, buffer.device))
        label_BPPP = boxes.pop().to(torch.int64) if self.labelled else None
        return Batch([windowed(codes_BDDD, table_B6, self.dtype) for codes_BDDD in boxes], label_BPPP)
