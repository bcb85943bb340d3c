"""Minibatches: drawn from counters, read from stores or cut from volumes on the device that trains.

A minibatch is a pure function of its step, so that several may be read at once and any of them again.

Shapes: B batch, S sources, P edge of the target; axes are z, y, x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hpcseg.patches.augmentation import draw_transform
from hpcseg.patches.codes import COLUMNS, table_row
from hpcseg.patches.geometry import PatchGeometry, target_lattice
from hpcseg.patches.minibatch import Batch, CodedBatch, Layout, RawBatch, StreamedBatch
from hpcseg.patches.reading import read_sample
from hpcseg.patches.resident import ResidentBatch
from hpcseg.patches.sampling import Draw, Sample, Sampling, Targets, autoencoder_sample, segmentation_sample
from hpcseg.patches.source import Source
from hpcseg.patches.transformed import ResidentViews, StreamedViews, ViewLayout


class _Batches(ABC):
    """What both kinds of minibatches share: all but where patches lie.

    They are cut from resident volumes if all sources have one.
    """

    def __init__(
        self, sources: Sequence[Source], geometry: PatchGeometry, draw: Draw, *, levels: Sequence[int], labelled: bool
    ) -> None:
        self._sources, self._geometry, self._draw = tuple(sources), geometry, draw
        self._levels, self._labelled = tuple(levels), labelled
        self._slots = range(draw.batch)[draw.part]
        lattice = target_lattice(geometry, draw.lattice)
        centres = [source.centre_3 for source in sources]
        self._targets = Targets([source.case for source in sources], geometry.patch, lattice, centres)
        self._layout: Layout | ViewLayout
        count, augmentation = len(self._slots), draw.augmentation
        if augmentation is not None and augmentation.enabled:
            self._layout = ViewLayout(count, geometry, self._levels, labelled, augmentation, draw.dtype)
        else:
            edges = tuple(geometry.inputs[level] for level in levels)
            self._layout = Layout(count, edges, geometry.patch if labelled else None, draw.dtype)
        resident = [source.resident for source in sources if source.resident is not None]
        self._resident = resident if len(resident) == len(sources) else []
        rows = [table_row(source.case.slope, source.case.intercept, source.normalisation) for source in sources]
        self._table_S6 = np.array(rows, np.float32).reshape(-1, COLUMNS)

    @abstractmethod
    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""

    def buffer(self, *, pinned: bool = False) -> Tensor | None:
        """Allocate memory that a minibatch can be read into; None where none is needed."""
        return None if self._resident else self._layout.buffer(pinned=pinned)

    def raw(self, step: int, buffer: Tensor | None = None) -> RawBatch:
        """Return minibatch `step`, not yet windowed.

        Args:
            step: from 0; the same step gives the same minibatch.
            buffer: from `buffer()`, to be written to; it is in use until the minibatch was windowed. None: a new one.
        """
        samples = [self.sample(step, slot) for slot in self._slots]
        table_B6 = torch.from_numpy(self._table_S6[[sample.case_index for sample in samples]])
        if isinstance(self._layout, ViewLayout):
            return self._transformed(self._layout, step, samples, table_B6, buffer)
        if self._resident:
            return ResidentBatch(
                cases=[self._resident[sample.case_index] for sample in samples],
                origins=[sample.origin_3 for sample in samples],
                geometry=self._geometry,
                levels=self._levels,
                labelled=self._labelled,
                table_B6=table_B6,
                dtype=self._draw.dtype,
            )
        buffer = self._layout.buffer() if buffer is None else buffer
        parts = self._layout.parts(buffer)
        parts.table_B6[...] = table_B6
        self._read(samples, parts)
        return StreamedBatch(self._layout, buffer)

    def batch(self, step: int) -> Batch:
        """Return minibatch `step` in the host's memory; a pure function."""
        return self.raw(step).to("cpu")

    def _read(self, samples: Sequence[Sample], parts: CodedBatch) -> None:
        """Read codes and labels into the parts of a buffer."""
        edge_3 = (self._geometry.patch,) * 3
        images = [codes_BDDD.numpy() for codes_BDDD in parts.images]
        label_BPPP = None if parts.label_BDHW is None else parts.label_BDHW.numpy()
        for slot, sample in enumerate(samples):
            source = self._sources[sample.case_index]
            boxes = [image[slot] for image in images]
            read_sample(source.case, self._geometry, sample.origin_3, self._levels, source.pyramid_clip, boxes)
            if label_BPPP is not None:
                source.case.read_label(sample.origin_3, edge_3, label_BPPP[slot])

    def _transformed(
        self, layout: ViewLayout, step: int, samples: Sequence[Sample], table_B6: Tensor, buffer: Tensor | None
    ) -> RawBatch:
        """Draw a transform about each target's centre, and read what it shows."""
        half = (self._geometry.patch - 1) / 2
        transforms = []
        for slot, sample in zip(self._slots, samples, strict=True):
            centre_3 = [position + half for position in sample.origin_3]
            transforms.append(draw_transform(layout.config, self._draw.generator(step, slot, transform=True), centre_3))
        views = layout.views([sample.origin_3 for sample in samples], transforms, table_B6)
        if self._resident:
            return ResidentViews(layout, [self._resident[sample.case_index] for sample in samples], views)
        sources = [self._sources[sample.case_index] for sample in samples]
        return StreamedViews.read(layout, sources, views, layout.buffer() if buffer is None else buffer)


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
        return segmentation_sample(self._targets, self._draw, step, slot, foreground_share=self._foreground_share)


class AutoencoderBatches(_Batches):
    """Minibatches of some levels, without labels.

    All levels of a slot belong to the same target, which is drawn as `autoencoder_sample` says.

    Args:
        sources: volumes, labelled or not.
        geometry: of the patches.
        draw: what each minibatch is drawn from.
        levels: which of the geometry's levels, in the order wanted.
        sampling: "gaussian", "uniform" or "organ", for which every source has a centre.
        sigma: of the Gaussian, in image sizes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: PatchGeometry,
        draw: Draw,
        *,
        levels: Sequence[int],
        sampling: Sampling,
        sigma: float,
    ) -> None:
        super().__init__(sources, geometry, draw, levels=levels, labelled=False)
        self._sampling: Sampling = sampling
        self._sigma = sigma

    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""
        return autoencoder_sample(self._targets, self._draw, step, slot, sampling=self._sampling, sigma=self._sigma)
