"""A scan in, a mask on the scan's own grid out, by one model or by several that are averaged (paper 3.1.2).

Shape legend: C foreground classes, Z/Y/X the axes z, y, x. "Network grid" is the cropped, resampled grid that a network
was trained on; "scan grid" is the scan's own, in canonical orientation. Probabilities go from the one to the other a
few planes at a time (`predict`, `restored`), so that no array of them is as large as the scan unless it is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import nibabel as nib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hpcseg.errors import BadInput
from hpcseg.inference.outputs import AS_TRAINED, Wanted
from hpcseg.inference.pipeline import Hands, in_turn
from hpcseg.inference.predict import Advance, Mode, Predictor
from hpcseg.inference.restoring import keep_largest, most_probable, restored
from hpcseg.training.model import TrainedModel
from hpcseg.training.precision import Number, pick_device
from hpcseg.volumes import scratch
from hpcseg.volumes.boxes import Box, Triple
from hpcseg.volumes.in_memory import as_file
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.resample import one_thread
from hpcseg.volumes.scan_grid import ScanGrid
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.scans import WHOLE, read_grid
from hpcseg.volumes.store import LEVELS

Item = TypeVar("Item")
Result = TypeVar("Result")
Scan = str | PathLike[str] | nib.spatialimages.SpatialImage | NDArray[Any]


@dataclass(frozen=True)
class Segmentation:
    """What was found in a scan, on its grid.

    Attributes:
        mask_zyx: class indices, uint8 (Z, Y, X), 0 the background.
        grid: of the scan.
        share_CZYX: probabilities of the classes as uint16 shares of `WHOLE` (65535), where they were asked for.
    """

    mask_zyx: NDArray[np.uint8]
    grid: ScanGrid
    share_CZYX: NDArray[np.uint16] | None = None

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The mask with the axes of the scan as it was given: of its file, image or array."""
        return self.grid.to_file(self.mask_zyx)

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Probabilities of the classes (C, and the axes of the scan as it was given), where they were asked for."""
        if self.share_CZYX is None:
            return None
        shares = np.stack([self.grid.to_file(share_zyx) for share_zyx in self.share_CZYX])
        return (shares / WHOLE).astype(np.float32)

    def to_nibabel(self) -> nib.Nifti1Image:
        """The mask as a NIfTI image, in mm, to look at or to save."""
        return nib.Nifti1Image(self.mask, self.grid.affine)


@dataclass(frozen=True)
class ReadScan:
    """A scan that was read: its file, its grid, and its volume on the network grid of a model."""

    image: Path
    grid: ScanGrid
    volume: ScanVolume

    def __post_init__(self) -> None:
        assert len(self.volume.histogram)  # counted now, while there is time


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What is done with each of some scans beside segmenting it.

    Attributes:
        read: gives the scan that an item stands for; called in a thread, ahead of time.
        finish: makes the result of an item and what was found in it; called in another thread.
        advance: called after every tile of every model.
        go_on: asked before the network begins with a scan; where it says no, none is begun any more.
        wanted: what to make of every scan.
        failed: makes the result of an item that cannot be segmented, or raises; None: the error is raised.
    """

    read: Callable[[Item], ReadScan]
    finish: Callable[[Item, Segmentation], Result]
    advance: Advance | None = None
    go_on: Callable[[], bool] = lambda: True
    wanted: Wanted = AS_TRAINED
    failed: Callable[[Item, Exception], Result] | None = None


class _Part(NamedTuple):
    """Some planes of a model's answer, (C, planes, Y, X), of a volume of `shape_zyx` at `crop` of a scan's grid."""

    grid: ScanGrid
    model: int
    shape_zyx: Triple
    crop: Box
    values_CZYX: NDArray[np.float32]


class Segmenter:
    """Trained models, ready to be applied to scans: with several, their probabilities on the scan grid are averaged.

    Args:
        models: at least one; each with a spacing and patches of its own, all with the same classes.
        device: where they compute; None: the GPU, if there is one.
        mode: "paper" or "tiles", instead of the one that each model was configured with.
        precision: "float32", "bfloat16" or "float16", likewise; float32 on a device without it.

    Raises:
        BadInput: the classes of two models differ.
    """

    def __init__(
        self,
        *models: TrainedModel,
        device: torch.device | None = None,
        mode: Mode | None = None,
        precision: Number | None = None,
    ) -> None:
        self.model = models[0]
        self.device = device or pick_device()
        for other in models[1:]:
            if other.classes != self.model.classes:
                raise BadInput(
                    f"model {other.name}: its classes {_listed(other)} are not {_listed(self.model)} as those of "
                    f"{self.model.name}; average models of the same classes"
                )
        self.predictors = [Predictor(model, self.device, mode, precision) for model in models]

    def segment(
        self,
        image: Scan,
        advance: Advance | None = None,
        *,
        affine: ArrayLike | None = None,
        probabilities: bool = False,
        largest: bool = False,
    ) -> Segmentation:
        """Segment one scan.

        Args:
            image: path of a NIfTI file; a nibabel image; or an array (x, y, z) with its `affine`.
            advance: called after every tile of every model.
            affine: (4, 4) of an array, voxel -> mm; files and images have their own.
            probabilities: keep them.
            largest: keep the largest connected component of each class only; probabilities stay as they are.

        Raises:
            BadInput: it is not a sound three-dimensional scan.
        """
        wanted = Wanted(largest=largest, probabilities=probabilities)
        with as_file(image, affine) as path:
            (found,) = self.in_turn([path], Work(self.read, lambda _, found: found, advance, wanted=wanted))
        return found

    def in_turn(self, scans: Iterable[Item], work: Work[Item, Result]) -> Iterator[Result]:
        """Segment scans one after the other, and yield what is made of each of them; see `pipeline.in_turn`.

        Raises:
            BadInput: a scan is not sound; those before it were yielded.
        """
        hands = Hands(
            work.read,
            lambda scan: self._answer(scan, work.advance),
            lambda item, parts: work.finish(item, self._segmentation(parts, work.wanted)),
            work.go_on,
            work.failed,
        )
        with one_thread():  # here for all threads: what each of them limits, another would lift
            yield from in_turn(scans, hands)

    def read(self, image: Path) -> ReadScan:
        """Read a scan, and bring it to the network grid of the first model.

        Raises:
            BadInput: it is not sound.
        """
        grid = read_grid(image)
        return ReadScan(image, grid, _prepared(image, self.model))

    def _answer(self, scan: ReadScan, advance: Advance | None) -> Iterator[_Part]:
        """The probabilities of each model on its network grid, a few planes at a time."""
        volume: ScanVolume | None = scan.volume
        recipe = _recipe(self.model)
        for index, predictor in enumerate(self.predictors):
            if volume is None or recipe != _recipe(predictor.model):
                volume = None  # the one before makes room
                volume, recipe = _prepared(scan.image, predictor.model), _recipe(predictor.model)
            for values_CZYX in predictor.slabs(volume, _over_all(advance, index, len(self.predictors))):
                yield _Part(scan.grid, index, volume.shape_zyx, volume.crop, values_CZYX)

    def _segmentation(self, parts: Iterator[_Part], wanted: Wanted) -> Segmentation:
        """What the models answer on average, on the scan's grid."""
        classes, count = self.model.class_count, len(self.predictors)
        first = next(parts)
        grid, parts = first.grid, itertools.chain([first], parts)
        mask_zyx = scratch.empty(grid.shape_zyx, np.uint8)
        share_CZYX = scratch.empty((classes, *grid.shape_zyx), np.uint16) if wanted.probabilities else None
        total_CZYX = scratch.zeros((classes, *grid.shape_zyx), np.float32) if count > 1 else None
        for index, of_model in itertools.groupby(parts, attrgetter("model")):
            first = next(of_model)
            predicted = (part.values_CZYX for part in itertools.chain([first], of_model))
            for planes, own_CZYX in restored(predicted, (classes, *first.shape_zyx), first.crop, grid.shape_zyx):
                sum_CZYX = own_CZYX
                if total_CZYX is not None:
                    sum_CZYX = total_CZYX[:, planes] = total_CZYX[:, planes] + own_CZYX
                    scratch.release(total_CZYX)
                if index == count - 1:
                    mean_CZYX = sum_CZYX / np.float32(count)
                    mask_zyx[planes] = most_probable(mean_CZYX)
                    if share_CZYX is not None:
                        share_CZYX[:, planes] = np.rint(mean_CZYX * WHOLE)
                        scratch.release(share_CZYX)
        if wanted.largest:
            keep_largest(mask_zyx, classes)
        return Segmentation(mask_zyx, grid, share_CZYX)


def _recipe(model: TrainedModel) -> tuple[object, ...]:
    """All that a scan's way to the network grid depends on."""
    return model.spacing_zyx, model.padding, model.pyramid_clip


def _prepared(image: Path, model: TrainedModel) -> ScanVolume:
    """A scan on the network grid of a model."""
    scan = preprocess(image, None, spacing_zyx=model.spacing_zyx, classes=(), padding=model.padding)
    return ScanVolume.of(scan, model.pyramid_clip, LEVELS)


def _over_all(advance: Advance | None, index: int, count: int) -> Advance | None:
    """Progress of one of several models as that of all; they are taken to have as many tiles as this one."""
    if advance is None:
        return None
    return lambda done, tiles: advance(index * tiles + done, count * tiles)


def _listed(model: TrainedModel) -> str:
    return str([list(values) for values in model.classes]) if model.classes else "(all labels but 0)"
