"""Minibatches: drawn from counters, read from stores or cut from volumes on the device that trains.

A minibatch is a pure function of its step, so that several may be read at once and any of them again.

Shapes: B batch, S sources, P edge of the target; axes are z, y, x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcseg.patches.augmentation import Transform, draw_transform
from hpcseg.patches.codes import COLUMNS, table_row
from hpcseg.patches.geometry import PatchGeometry, target_lattice
from hpcseg.patches.intensity import Look, draw_look
from hpcseg.patches.minibatch import Batch, CodedBatch, Drawn, Layout, RawBatch, ResidentBatch
from hpcseg.patches.plain import PlainLayout
from hpcseg.patches.sampling import Draw, Place, Sample, Targets, Use, autoencoder_sample, segmentation_sample
from hpcseg.patches.source import Source
from hpcseg.patches.transformed import TransformedLayout


class _Batches(ABC):
    """What both kinds of minibatches share: all but where patches lie.

    They are cut from resident volumes if all sources have one.

    Attributes:
        draw: what each minibatch is drawn from.
    """

    def __init__(
        self, sources: Sequence[Source], geometry: PatchGeometry, draw: Draw, *, levels: Sequence[int], labelled: bool
    ) -> None:
        self._sources, self._geometry, self.draw = tuple(sources), geometry, draw
        self._slots = range(draw.batch)[draw.part]
        lattice = target_lattice(geometry, draw.lattice)
        centres = [source.centre_3 for source in sources]
        self._targets = Targets([source.case for source in sources], geometry.patch, lattice, centres)
        wanted = len(self._slots), geometry, tuple(levels), labelled, draw.dtype
        self._layout: Layout[Any] = PlainLayout(*wanted)
        if draw.augmentation is not None and draw.augmentation.enabled:
            self._layout = TransformedLayout(*wanted, draw.augmentation)
        self._resident = bool(sources) and all(source.resident is not None for source in sources)
        rows = [table_row(source.case.coding, source.normalisation) for source in sources]
        self._table_S6 = np.array(rows, np.float32).reshape(-1, COLUMNS)

    @abstractmethod
    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""

    def buffer(self, *, pinned: bool = False) -> Tensor | None:
        """Allocate memory that a minibatch can be read into; None where none is needed."""
        return None if self._resident else self._layout.buffer(pinned=pinned)

    def raw(self, step: int, buffer: Tensor | None = None) -> RawBatch:
        """Return minibatch `step`, not yet decoded.

        Args:
            step: from 0; the same step gives the same minibatch.
            buffer: from `buffer()`, to be written to; it is in use until the minibatch was decoded. None: a new one.
        """
        drawn = self._drawn(step)
        plan = self._layout.plan(drawn)
        if self._resident:
            return ResidentBatch(self._layout, plan)
        read = self._layout.read(plan, self._layout.buffer() if buffer is None else buffer)
        return CodedBatch(self._layout, read, drawn.looks)

    def batch(self, step: int) -> Batch:
        """Return minibatch `step` in the host's memory; a pure function."""
        return self.raw(step).to("cpu")

    def _drawn(self, step: int) -> Drawn:
        """Where the patches of a minibatch lie, and, if wanted, how each is changed."""
        samples = [self.sample(step, slot) for slot in self._slots]
        transforms: list[Transform] = []
        looks: list[Look] = []
        if isinstance(self._layout, TransformedLayout):
            config, grid, half = self._layout.augmentation, self._layout.grid, (self._geometry.patch - 1) / 2
            for slot, sample in zip(self._slots, samples, strict=True):
                generator = self.draw.generator(step, slot, Use.TRANSFORM)
                centre_3 = [position + half for position in sample.origin_3]
                transforms.append(draw_transform(config, generator, centre_3, 0 if grid is None else grid.count))
                if config.changes_intensity:
                    window = self._sources[sample.case_index].normalisation.limits
                    looks.append(draw_look(config, self.draw.generator(step, slot, Use.INTENSITY), window))
        return Drawn(
            sources=[self._sources[sample.case_index] for sample in samples],
            origins=[sample.origin_3 for sample in samples],
            table_B6=torch.from_numpy(self._table_S6[[sample.case_index for sample in samples]]),
            transforms=transforms,
            looks=looks,
        )


class SegmentationBatches(_Batches):
    """Minibatches of all levels with the target's labels.

    Args:
        sources: labelled volumes.
        geometry: of the patches.
        draw: what each minibatch is drawn from.
        foreground_share: of the patches, which are centred on foreground, see `segmentation_sample`.
    """

    def __init__(
        self, sources: Sequence[Source], geometry: PatchGeometry, draw: Draw, *, foreground_share: float
    ) -> None:
        super().__init__(sources, geometry, draw, levels=range(geometry.levels), labelled=True)
        self._foreground_share = foreground_share

    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""
        return segmentation_sample(self._targets, self.draw, step, slot, foreground_share=self._foreground_share)


class AutoencoderBatches(_Batches):
    """Minibatches of some levels, without labels.

    All levels of a slot belong to the same target, which is drawn as `autoencoder_sample` says.

    Args:
        sources: volumes, labelled or not.
        geometry: of the patches.
        draw: what each minibatch is drawn from.
        levels: which of the geometry's levels, in the order wanted.
        place: how; with "organ" every source has a centre.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: PatchGeometry,
        draw: Draw,
        *,
        levels: Sequence[int],
        place: Place,
    ) -> None:
        super().__init__(sources, geometry, draw, levels=levels, labelled=False)
        self._place = place

    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""
        return autoencoder_sample(self._targets, self.draw, step, slot, place=self._place)
