"""Minibatches: drawn from counters, read from stores or cut from volumes on the device that trains.

A minibatch is a pure function of its step, so that several may be read at once and any of them again.

Shapes: B batch, S sources, P edge of the target; axes are z, y, x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.config import AugmentationConfig, PatchesConfig
from hpcseg.patches.augmentation import draw_transform, read_transformed, read_transformed_label
from hpcseg.patches.geometry import FovealGeometry, target_lattice
from hpcseg.patches.minibatch import Batch, CodedBatch, Layout, RawBatch, StreamedBatch
from hpcseg.patches.reading import box_corner, read_sample
from hpcseg.patches.resident import ResidentBatch
from hpcseg.patches.sampling import Places, Sample, Sampling, autoencoder_sample, segmentation_sample
from hpcseg.patches.source import Source
from hpcseg.patches.windowing import COLUMNS, table_row


class _Drawn(ABC):
    """What both kinds of minibatches share: all but where patches lie.

    They are cut from resident volumes if all sources have one; but not where patches are interpolated.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: FovealGeometry,
        *,
        levels: Sequence[int],
        labelled: bool,
        lattice: int,
        batch: int,
        seed: int,
        stream: int,
        augmentation: AugmentationConfig | None,
    ) -> None:
        self._augmentation = augmentation if augmentation is not None and augmentation.enabled else None
        self._sources = tuple(sources)
        self._places = Places([source.case for source in sources])
        self._geometry = geometry
        self._levels = tuple(levels)
        self._labelled = labelled
        self._lattice = target_lattice(geometry, lattice)
        self._batch = batch
        self._seed = seed
        self._stream = stream
        self._layout = Layout(
            batch=batch,
            edges=tuple(geometry.inputs[level] for level in levels),
            label=geometry.patch if labelled else None,
            dtype=torch.float32 if self._augmentation else torch.int16,
        )
        resident = [source.resident for source in sources if source.resident is not None]
        self._resident = [] if self._augmentation or len(resident) < len(sources) else resident
        rows = [self._table_row(source) for source in sources]
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
        samples = [self.sample(step, slot) for slot in range(self._batch)]
        table_B6 = self._table_S6[[sample.case_index for sample in samples]]
        if self._resident:
            return ResidentBatch(
                cases=[self._resident[sample.case_index] for sample in samples],
                origins=[sample.origin_3 for sample in samples],
                geometry=self._geometry,
                levels=self._levels,
                labelled=self._labelled,
                table_B6=torch.from_numpy(table_B6),
            )
        buffer = self._layout.buffer() if buffer is None else buffer
        parts = self._layout.parts(buffer)
        parts.table_B6.numpy()[...] = table_B6
        if self._augmentation:
            self._read_transformed(self._augmentation, step, samples, parts)
        else:
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

    def _read_transformed(
        self, config: AugmentationConfig, step: int, samples: Sequence[Sample], parts: CodedBatch
    ) -> None:
        """Read interpolated intensities and labels into the parts of a buffer."""
        geometry = self._geometry
        half = (geometry.patch - 1) / 2
        for slot, (index, origin_3) in enumerate(samples):
            case = self._sources[index].case
            centre_3 = [position + half for position in origin_3]
            transform = draw_transform(config, self._seed, self._stream, step, slot, centre_3)
            for level, image in zip(self._levels, parts.images, strict=True):
                corner_3 = box_corner(geometry, level, origin_3)
                image.numpy()[slot] = read_transformed(case, level, corner_3, geometry.inputs[level], transform)
            if parts.label_BDHW is not None:
                label_PPP = read_transformed_label(case, origin_3, geometry.patch, transform)
                parts.label_BDHW.numpy()[slot] = label_PPP

    def _table_row(self, source: Source) -> NDArray[np.float32]:
        """How patches of a source are windowed; interpolated ones are intensities, not codes."""
        if self._augmentation:
            return table_row(1.0, 0.0, source.normalisation)
        return table_row(source.case.slope, source.case.intercept, source.normalisation)


class SegmentationBatches(_Drawn):
    """Minibatches of all levels with the target's labels.

    Args:
        sources: labelled volumes.
        geometry: of the patches.
        patches: `lattice` and `foreground_share` are used; the size is the geometry's.
        batch: patches of a minibatch.
        seed: of the run.
        stream: see `hpcseg.patches.sampling.Stream`.
        augmentation: random transforms of the patches; None for none.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: FovealGeometry,
        patches: PatchesConfig,
        *,
        batch: int,
        seed: int,
        stream: int,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        super().__init__(
            sources,
            geometry,
            levels=range(geometry.levels),
            labelled=True,
            lattice=patches.lattice,
            batch=batch,
            seed=seed,
            stream=stream,
            augmentation=augmentation,
        )
        self._foreground_share = patches.foreground_share

    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""
        return segmentation_sample(
            self._seed,
            self._stream,
            step,
            slot,
            batch=self._batch,
            foreground_share=self._foreground_share,
            places=self._places,
            patch=self._geometry.patch,
            lattice=self._lattice.step,
            phase=self._lattice.phase,
        )


class AutoencoderBatches(_Drawn):
    """Minibatches of some levels, without labels.

    All levels of a slot belong to the same target, which is drawn as `autoencoder_sample` says.

    Args:
        sources: volumes, labelled or not.
        geometry: of the patches.
        levels: which of the geometry's levels, in the order wanted.
        batch: patches of a minibatch.
        seed: of the run.
        stream: see `hpcseg.patches.sampling.Stream`.
        sampling: "gaussian" or "uniform".
        sigma: of the Gaussian, in image sizes.
        lattice: step of the target origins.
        augmentation: random transforms of the patches; None for none.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: FovealGeometry,
        *,
        levels: Sequence[int],
        batch: int,
        seed: int,
        stream: int,
        sampling: Sampling,
        sigma: float,
        lattice: int,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        super().__init__(
            sources,
            geometry,
            levels=levels,
            labelled=False,
            lattice=lattice,
            batch=batch,
            seed=seed,
            stream=stream,
            augmentation=augmentation,
        )
        self._sampling: Sampling = sampling
        self._sigma = sigma

    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""
        return autoencoder_sample(
            self._seed,
            self._stream,
            step,
            slot,
            places=self._places,
            patch=self._geometry.patch,
            lattice=self._lattice.step,
            phase=self._lattice.phase,
            sampling=self._sampling,
            sigma=self._sigma,
        )
