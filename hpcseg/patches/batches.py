"""Minibatches as tensors, and reading ahead of the training loop.

A minibatch is a pure function of its step, so that several may be read at once and any of them again.

Shapes: B batch, D edge of a level's input box, P edge of the target; axes are z, y, x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.config import AugmentationConfig, PatchesConfig
from hpcseg.patches.augmentation import Transform, draw_transform, read_transformed, read_transformed_label
from hpcseg.patches.geometry import FovealGeometry, target_lattice
from hpcseg.patches.reading import read_sample
from hpcseg.patches.sampling import Sample, Sampling, autoencoder_sample, segmentation_sample
from hpcseg.volumes.intensities import Normalisation
from hpcseg.volumes.store import StoredCase


@dataclass(frozen=True)
class Source:
    """A stored volume and how its intensities become a network's input.

    Attributes:
        case: the volume.
        normalisation: clips and scales intensities.
        pyramid_clip: of the case's store, which alone knows it.
    """

    case: StoredCase
    normalisation: Normalisation
    pyramid_clip: tuple[float, float] | None


@dataclass
class Batch:
    """One minibatch.

    Attributes:
        images: (B, 1, D, D, D) float32 per requested level, in the order requested; normalised.
        label_BDHW: (B, P, P, P) int64 class indices, 0 outside the volume; None for autoencoders.
    """

    images: list[Tensor]
    label_BDHW: Tensor | None

    def pinned(self) -> Batch:
        """Return a copy in page-locked memory, from where a GPU fetches it while the host goes on."""
        label = None if self.label_BDHW is None else self.label_BDHW.pin_memory()
        return Batch([image.pin_memory() for image in self.images], label)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; from pinned memory without waiting."""
        label = None if self.label_BDHW is None else self.label_BDHW.to(device, non_blocking=True)
        return Batch([image.to(device, non_blocking=True) for image in self.images], label)


class Batches(Protocol):
    """A series of minibatches; `batch` may be called from several threads."""

    def batch(self, step: int) -> Batch:
        """Return minibatch `step`, always the same."""


class _Drawn(ABC):
    """What both kinds of minibatches share: where patches lie, and through which transform they are seen."""

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: FovealGeometry,
        *,
        lattice: int,
        batch: int,
        seed: int,
        stream: int,
        augmentation: AugmentationConfig | None,
    ) -> None:
        self._sources = tuple(sources)
        self._views = tuple(_View(source.case.shape_zyx, source.case.foreground_by_class) for source in sources)
        self._geometry = geometry
        self._lattice = target_lattice(geometry, lattice)
        self._batch = batch
        self._seed = seed
        self._stream = stream
        self._augmentation = augmentation

    @abstractmethod
    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""

    def _draw(self, step: int) -> tuple[list[Sample], list[Transform | None]]:
        """Return place and transform of each patch of a minibatch."""
        samples = [self.sample(step, slot) for slot in range(self._batch)]
        return samples, _transforms(self._augmentation, self._geometry, samples, self._seed, self._stream, step)


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
        lattice = patches.lattice
        super().__init__(
            sources, geometry, lattice=lattice, batch=batch, seed=seed, stream=stream, augmentation=augmentation
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
            cases=self._views,
            patch=self._geometry.patch,
            lattice=self._lattice.step,
            phase=self._lattice.phase,
        )

    def batch(self, step: int) -> Batch:
        """Return minibatch `step`; a pure function."""
        samples, transforms = self._draw(step)
        edge = self._geometry.patch
        label_BDHW = np.empty((self._batch, edge, edge, edge), np.int64)
        for slot, (sample, transform) in enumerate(zip(samples, transforms, strict=True)):
            case = self._sources[sample.case_index].case
            if transform is None:
                label_BDHW[slot] = case.read_label(sample.origin_3, (edge, edge, edge))
            else:
                label_BDHW[slot] = read_transformed_label(case, sample.origin_3, edge, transform)
        images = _images(self._sources, self._geometry, samples, transforms, range(self._geometry.levels))
        return Batch(images, torch.from_numpy(label_BDHW))


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
            sources, geometry, lattice=lattice, batch=batch, seed=seed, stream=stream, augmentation=augmentation
        )
        self._levels = tuple(levels)
        self._sampling: Sampling = sampling
        self._sigma = sigma

    def sample(self, step: int, slot: int) -> Sample:
        """Return where one patch lies."""
        return autoencoder_sample(
            self._seed,
            self._stream,
            step,
            slot,
            cases=self._views,
            patch=self._geometry.patch,
            lattice=self._lattice.step,
            phase=self._lattice.phase,
            sampling=self._sampling,
            sigma=self._sigma,
        )

    def batch(self, step: int) -> Batch:
        """Return minibatch `step`; a pure function."""
        samples, transforms = self._draw(step)
        return Batch(_images(self._sources, self._geometry, samples, transforms, self._levels), None)


def prefetched(
    batches: Batches, steps: Iterable[int], *, ahead: int = 2, device: torch.device | str
) -> Generator[Batch, None, None]:
    """Yield the minibatches of `steps` in order, on `device`, while the next ones are being read.

    An error in reading is raised where its minibatch is due. When the iterator is closed, minibatches not yet begun are
    dropped and the reading threads end.

    Args:
        batches: where minibatches come from.
        steps: may be endless; asked for one at a time, in the consumer's thread.
        ahead: minibatches read beyond the one in use, at most, each by a thread of its own.
        device: where the tensors are wanted.
    """
    device = torch.device(device)

    def read(step: int) -> Batch:
        batch = batches.batch(step)
        return batch.pinned() if device.type == "cuda" else batch

    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(max_workers=max(1, ahead), thread_name_prefix="prefetch")
    try:
        for step in steps:
            waiting.append(pool.submit(read, step))
            if len(waiting) > ahead:
                yield waiting.popleft().result().to(device)
        while waiting:
            yield waiting.popleft().result().to(device)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _View:
    """What sampling asks of a case, fetched from the store once."""

    shape_zyx: tuple[int, int, int]
    foreground_by_class: Mapping[int, NDArray[np.int32]]


def _transforms(
    config: AugmentationConfig | None,
    geometry: FovealGeometry,
    samples: Sequence[Sample],
    seed: int,
    stream: int,
    step: int,
) -> list[Transform | None]:
    """Transform of each patch about its target's centre; None where augmentation is off."""
    if config is None or not config.enabled:
        return [None] * len(samples)
    half = (geometry.patch - 1) / 2
    centres = [[position + half for position in sample.origin_3] for sample in samples]
    return [draw_transform(config, seed, stream, step, slot, centre) for slot, centre in enumerate(centres)]


def _images(
    sources: Sequence[Source],
    geometry: FovealGeometry,
    samples: Sequence[Sample],
    transforms: Sequence[Transform | None],
    levels: Sequence[int],
) -> list[Tensor]:
    """Read and normalise: one (B, 1, D, D, D) tensor per level."""
    edges = [geometry.inputs[level] for level in levels]
    images = [np.empty((len(samples), 1, edge, edge, edge), np.float32) for edge in edges]
    for slot, sample in enumerate(samples):
        source = sources[sample.case_index]
        boxes = _boxes(source, geometry, sample.origin_3, transforms[slot], levels)
        for image_B1DDD, box in zip(images, boxes, strict=True):
            source.normalisation.apply(box, out=image_B1DDD[slot, 0])
    return [torch.from_numpy(image_B1DDD) for image_B1DDD in images]


def _boxes(
    source: Source,
    geometry: FovealGeometry,
    origin_3: tuple[int, int, int],
    transform: Transform | None,
    levels: Sequence[int],
) -> list[NDArray[np.float32]]:
    """Intensities of the input box of each level."""
    if transform is None:
        return read_sample(source.case, geometry, origin_3, levels, source.pyramid_clip)
    corners = [[position + geometry.origins[level] for position in origin_3] for level in levels]
    return [
        read_transformed(source.case, level, corner_3, geometry.inputs[level], transform)
        for level, corner_3 in zip(levels, corners, strict=True)
    ]
