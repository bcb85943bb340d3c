"""A scan in, a mask on the scan's own grid out, by one model or by several that are averaged (paper 3.1.2).

Shape legend: C foreground classes, Z/Y/X the axes z, y, x. "Network grid" is the cropped, resampled grid that a network
was trained on; "scan grid" is the scan's own, in canonical orientation. Probabilities go from the one to the other a
few planes at a time (`predict`, `restored`), so that no array of them is as large as the scan unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hpcseg.errors import BadInput
from hpcseg.inference.predict import Advance, Mode, Predictor
from hpcseg.training.model import TrainedModel
from hpcseg.training.precision import pick_device
from hpcseg.volumes import scratch
from hpcseg.volumes.boxes import Box, bounding_box
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.resample import linear_slabs
from hpcseg.volumes.scan_grid import ScanGrid
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.scans import WHOLE, as_file, read_grid
from hpcseg.volumes.store import LEVELS

NEIGHBOURS: Literal[26] = 26  # voxels that share a face, an edge or a corner are connected

Slab = tuple[slice, NDArray[np.float32]]
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


class Segmenter:
    """Trained models, ready to be applied to scans: with several, their probabilities on the scan grid are averaged.

    Args:
        models: at least one; each with a spacing and patches of its own, all with the same classes.
        device: where they compute; None: the GPU, if there is one.
        mode: "paper" or "tiles", instead of the one that each model was configured with.

    Raises:
        BadInput: the classes of two models differ.
    """

    def __init__(self, *models: TrainedModel, device: torch.device | None = None, mode: Mode | None = None) -> None:
        self.model = models[0]
        self.device = device or pick_device()
        for other in models[1:]:
            if other.classes != self.model.classes:
                raise BadInput(
                    f"model {other.name}: its classes {_listed(other)} are not {_listed(self.model)} as those of "
                    f"{self.model.name}; average models of the same classes"
                )
        self.predictors = [Predictor(model, self.device, mode) for model in models]

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
        with as_file(image, affine) as path:
            return self._segment(path, advance, probabilities, largest)

    def _segment(self, image: Path, advance: Advance | None, probabilities: bool, largest: bool) -> Segmentation:
        grid, classes, count = read_grid(image), self.model.class_count, len(self.predictors)
        mask_zyx = scratch.empty(grid.shape_zyx, np.uint8)
        share_CZYX = scratch.empty((classes, *grid.shape_zyx), np.uint16) if probabilities else None
        total_CZYX = scratch.zeros((classes, *grid.shape_zyx), np.float32) if count > 1 else None
        volume: ScanVolume | None = None
        recipe: tuple[object, ...] = ()
        for index, predictor in enumerate(self.predictors):
            model = predictor.model
            if volume is None or recipe != (model.spacing_zyx, model.padding, model.pyramid_clip):
                volume = None  # the one before makes room
                volume = _prepared(image, model)
                recipe = model.spacing_zyx, model.padding, model.pyramid_clip
            predicted = predictor.slabs(volume, _over_all(advance, index, count))
            shape_CZYX = classes, *volume.shape_zyx
            for planes, own_CZYX in restored(predicted, shape_CZYX, volume.crop, grid.shape_zyx):
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
        if largest:
            keep_largest(mask_zyx, classes)
        return Segmentation(mask_zyx, grid, share_CZYX)


def restored(
    predicted: Iterator[NDArray[np.float32]],
    shape_CZYX: Sequence[int],
    crop: Box,
    scan_shape: Sequence[int],
) -> Iterator[Slab]:
    """Resample probabilities linearly to the scan's canonical grid.

    Args:
        predicted: (C, planes, Y, X) on the network's grid, from its first plane to its last.
        shape_CZYX: of all of them.
        crop: where that grid lies in the scan.
        scan_shape: z, y, x.

    Yields:
        Every plane of the scan once, ascending, and (C, planes, Y, X) float32 there, 0 outside the crop.
    """
    classes, first, end = shape_CZYX[0], crop[0].start, crop[0].stop
    yield from _outside(0, first, (classes, *scan_shape))
    inner = [axis.stop - axis.start for axis in crop]
    for rows, values in linear_slabs(predicted, shape_CZYX, inner):
        slab = np.zeros((classes, rows.stop - rows.start, *scan_shape[1:]), np.float32)
        for own, value in zip(slab, values, strict=True):
            own[:, *crop[1:]] = value
        yield slice(first + rows.start, first + rows.stop), slab
    yield from _outside(end, scan_shape[0], (classes, *scan_shape))


def most_probable(probability_CZYX: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Class of every voxel: one class where its probability is above ½, several: the largest, background included."""
    classes = len(probability_CZYX)
    mask_zyx = np.zeros(probability_CZYX.shape[1:], np.uint8)
    best = np.full(mask_zyx.shape, 0.5, np.float32) if classes == 1 else 1 - probability_CZYX.sum(axis=0)
    for label, probability_ZYX in enumerate(probability_CZYX, start=1):
        mask_zyx[probability_ZYX > best] = label
        np.maximum(best, probability_ZYX, out=best)
    return mask_zyx


def keep_largest(mask_zyx: NDArray[np.uint8], classes: int) -> None:
    """Set every voxel that is not in its class' largest component to background, in place.

    What lies apart from an organ is seldom part of it. Components are those of one class alone; of two that are equally
    large, one is kept.

    Args:
        mask_zyx: classes, 0 the background.
        classes: number of foreground classes.
    """
    import cc3d

    for label in range(1, classes + 1):
        part = mask_zyx[bounding_box(mask_zyx.shape, lambda planes: mask_zyx[planes] == label)]  # noqa: B023 called at once
        if not part.size:
            continue
        components = cc3d.connected_components(part == label, connectivity=NEIGHBOURS)
        sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"][1:]
        if len(sizes) > 1:
            largest = 1 + int(np.argmax(sizes))
            for planes in scratch.slabs(part.shape):
                found = components[planes]
                part[planes][(found != 0) & (found != largest)] = 0


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


def _outside(first: int, end: int, shape_CZYX: Sequence[int]) -> Iterator[Slab]:
    classes, _, *plane = shape_CZYX
    for part in scratch.slabs((end - first, *plane)):
        planes = slice(first + part.start, first + part.stop)
        yield planes, np.zeros((classes, planes.stop - planes.start, *plane), np.float32)
