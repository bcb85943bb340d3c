"""Where the labelled organ lies in volumes without a label, estimated from the labelled volumes alone.

Beyond the paper, as its discussion proposes: "estimate the general position of the liver in the images ... and sample
patches with a Gaussian probability from this region". Templates, boxes around the organ in labelled volumes, are moved
over a coarse level of the other volume; the organ is where they resemble it best on average. A template may hang over
the volume's edge: only voxels of both count (normalised correlation with masks, Padfield 2012, by FFT).

Arrays are z, y, x. A centre is in level-0 voxels, counted from the volume's corner: half its shape is its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.patches.sampling import Centre
from hpcseg.patches.source import Source
from hpcseg.volumes.boxes import intersection
from hpcseg.volumes.store import LEVELS, StoredCase

TEMPLATES = 8  # more make the estimate slower, not better
_SMALLEST = 24  # voxels along an edge of a typical volume at the level that is compared
_LEAST_OVERLAP = 0.5  # of the template
_LEAST_LIKENESS = (
    0.25  # mean correlation: on CTs 0.31 to 0.57 where all of the liver is seen, 0.23 where little of it is
)
_FLAT = 1e-6  # variance below which there is nothing to compare

Volume = NDArray[np.float64]


class Organ(NamedTuple):
    """Where an organ lies.

    Attributes:
        centre_3: see the module.
        known: from its "label", from "likeness" to the templates, or the "middle" of a volume that is like none.
        likeness: mean correlation of the templates at the centre, −1 to 1; None for a labelled volume.
    """

    centre_3: Centre
    known: Literal["label", "likeness", "middle"]
    likeness: float | None


class OrganFinder:
    """Finds the organ by what it looks like in labelled volumes; a pure function of them and of the volume.

    Args:
        labelled: volumes whose labels may be used, of which the first `TEMPLATES` with foreground are.

    Raises:
        BadInput: none of them has a foreground voxel.
    """

    def __init__(self, labelled: Sequence[Source]) -> None:
        shown = [source for source in labelled if source.case.foreground_classes][:TEMPLATES]
        if not shown:
            raise BadInput(
                "autoencoder.sampling = 'organ': no labelled volume has a foreground voxel; "
                "change data.foreground or sample otherwise"
            )
        edge = float(np.median([np.prod(source.case.shape_zyx) ** (1 / 3) for source in shown]))
        self._level = max((level for level in range(LEVELS) if edge / 2**level >= _SMALLEST), default=0)
        voxels = [_foreground(source.case) for source in shown]
        extent_3 = np.median([np.ptp(voxels_N3, axis=0) + 1 for voxels_N3 in voxels], axis=0) / 2**self._level
        half_3 = np.ceil(extent_3 / 2).astype(np.int64)
        centres = [_mean_place(voxels_N3) / 2**self._level for voxels_N3 in voxels]
        self._templates = [
            _cut(self._image(source), np.floor(centre_3).astype(np.int64) - half_3, 2 * half_3 + 1)
            for source, centre_3 in zip(shown, centres, strict=True)
        ]
        self._offset_3 = np.mean([centre_3 % 1 for centre_3 in centres], axis=0)  # of the organ in the middle voxel

    def find(self, source: Source) -> Organ:
        """Estimate where the organ lies in a volume; its label is not looked at."""
        image_zyx = self._image(source)
        spectra = _Spectra(image_zyx, self._templates[0][0].shape)
        likeness_zyx = np.mean([spectra.likeness(*template) for template in self._templates], axis=0)
        best = np.unravel_index(int(likeness_zyx.argmax()), likeness_zyx.shape)
        likeness = float(likeness_zyx[best])
        shape_3 = np.array(source.case.shape_zyx)
        if likeness < _LEAST_LIKENESS:
            return Organ(_centre(shape_3 / 2), "middle", likeness)
        place_3 = (np.array(best) + self._offset_3) * 2**self._level
        return Organ(_centre(np.minimum(place_3, shape_3 - 0.5)), "likeness", likeness)

    def _image(self, source: Source) -> Volume:
        """All of a volume at the level that is compared, as a network sees it."""
        case = source.case
        codes_zyx = case.read(self._level, (0, 0, 0), case.shape_of(self._level))
        return source.normalisation.apply(case.coding.decode(codes_zyx)).astype(np.float64)


def labelled_organ(case: StoredCase) -> Organ | None:
    """Centre of mass of the stored foreground voxels, of all classes; None where there are none."""
    if not case.foreground_classes:
        return None
    return Organ(_centre(_mean_place(_foreground(case))), "label", None)


class _Spectra:
    """Fourier transforms of a volume, to be compared with templates of one shape."""

    def __init__(self, image_zyx: Volume, template_shape: tuple[int, ...]) -> None:
        from scipy import fft  # nearly a tenth of all that a job imports, and few look for an organ

        self._fft = fft
        sizes = zip(image_zyx.shape, template_shape, strict=True)
        self._shape = [fft.next_fast_len(image + template - 1, real=True) for image, template in sizes]
        kept = zip(image_zyx.shape, template_shape, strict=True)
        self._kept = tuple(slice(template // 2, template // 2 + image) for image, template in kept)
        self._inside = self._transformed(np.ones_like(image_zyx))
        self._values = self._transformed(image_zyx)
        self._squares = self._transformed(image_zyx**2)

    def likeness(self, template_zyx: Volume, mask_zyx: Volume) -> Volume:
        """Correlation of a template with the volume, its middle on each voxel; −1 where they hardly overlap.

        Args:
            template_zyx: odd edges; 0 outside its mask.
            mask_zyx: 1 where the template was within its own volume, else 0.
        """
        backwards = (slice(None, None, -1),) * 3
        mask = self._transformed(mask_zyx[backwards])
        values = self._transformed(template_zyx[backwards])
        squares = self._transformed(template_zyx[backwards] ** 2)
        both = np.rint(self._summed(self._inside * mask))
        count = np.maximum(both, 1)
        ours, theirs = self._summed(self._values * mask), self._summed(self._inside * values)
        covariance = self._summed(self._values * values) - ours * theirs / count
        our_variance = np.maximum(self._summed(self._squares * mask) - ours**2 / count, _FLAT * count)
        their_variance = np.maximum(self._summed(self._inside * squares) - theirs**2 / count, _FLAT * count)
        likeness_zyx: Volume = covariance / np.sqrt(our_variance * their_variance)
        likeness_zyx[both < _LEAST_OVERLAP * mask_zyx.sum()] = -1
        return likeness_zyx

    def _transformed(self, values_zyx: Volume) -> NDArray[np.complex128]:
        spectrum: NDArray[np.complex128] = self._fft.rfftn(values_zyx, self._shape)
        return spectrum

    def _summed(self, spectrum: NDArray[np.complex128]) -> Volume:
        sums_zyx: Volume = self._fft.irfftn(spectrum, self._shape)
        return sums_zyx[self._kept]


def _cut(image_zyx: Volume, start_3: NDArray[np.int64], size_3: NDArray[np.int64]) -> tuple[Volume, Volume]:
    """A box of a volume, 0 beyond it, and a mask that is 1 within the volume."""
    template_zyx, mask_zyx = np.zeros(size_3), np.zeros(size_3)
    source, inner = intersection(start_3.tolist(), size_3.tolist(), image_zyx.shape)
    template_zyx[inner] = image_zyx[source]
    mask_zyx[inner] = 1
    return template_zyx, mask_zyx


def _foreground(case: StoredCase) -> NDArray[np.int32]:
    return np.concatenate([case.foreground_by_class[index] for index in case.foreground_classes])


def _mean_place(voxels_N3: NDArray[np.int32]) -> NDArray[np.float64]:
    place_3: NDArray[np.float64] = voxels_N3.mean(axis=0) + 0.5
    return place_3


def _centre(place_3: NDArray[np.float64]) -> Centre:
    z, y, x = place_3.tolist()
    return z, y, x
