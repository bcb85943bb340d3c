"""One case's way from its scan to what a chunk store holds of it: preprocessed, coded, counted. The format: `store`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.spec import CaseRef, PackSpec
from hpcseg.volumes.datasets import scan_digest
from hpcseg.volumes.preprocess import n_classes, preprocess
from hpcseg.volumes.pyramid import count_codes
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import LEVELS

SAMPLE = 10_000  # foreground voxels kept per class


@dataclass(frozen=True, eq=False)
class PackedCase:
    """What is written of one case: the attributes of its group and its datasets, by name."""

    name: str
    attributes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def pack_case(spec: PackSpec, case: CaseRef) -> PackedCase:
    """Preprocess and code one case.

    Raises:
        BadInput: its scan or label is bad, or the label has no foreground.
    """
    done = preprocess(case.image, case.label, spacing_zyx=spec.spacing_zyx, classes=spec.classes, padding=spec.padding)
    label = done.label_zyx
    if label is not None and not label.any():
        values = sorted(value for group in spec.classes for value in group) or "all but 0"
        raise BadInput(
            f"{case.label}: empty foreground: no voxel of data.foreground ({values}) at {spec.spacing_zyx} mm; "
            "take the case out of dataset.json or change data.foreground"
        )
    coded = ScanVolume.of(done, spec.pyramid_clip, LEVELS)
    arrays: dict[str, NDArray[Any]] = {f"image_{level}": codes for level, codes in enumerate(coded.levels_zyx)}
    finest = coded.levels_zyx[0]
    arrays["histogram_codes"], arrays["histogram_counts"] = count_codes(finest)
    if label is None:
        arrays["foreground_codes"], arrays["foreground_counts"] = count_codes(finest[:0])
    else:
        arrays["label"] = label
        arrays["foreground_codes"], arrays["foreground_counts"] = count_codes(finest, label)
        arrays |= _foreground(case.name, label, n_classes(spec.classes))
    attributes = {
        "slope": coded.coding.slope,
        "intercept": coded.coding.intercept,
        "padding": done.padding,
        "labelled": label is not None,
        "source_digest": scan_digest(case.image),
        "affine": done.grid.affine,
        "file_shape": np.array(done.grid.file_shape),
        "crop": np.array([(axis.start, axis.stop) for axis in done.crop]),
    }
    return PackedCase(case.name, attributes, arrays)


def _foreground(name: str, label: NDArray[np.uint8], classes: int) -> dict[str, NDArray[Any]]:
    """Sample the voxels of each class; the same ones whenever this case is packed from the same label."""
    samples: dict[str, NDArray[Any]] = {}
    for index in range(1, classes):
        ends = np.cumsum([np.count_nonzero(plane == index) for plane in label])
        count = int(ends[-1])
        ranks = np.arange(min(count, SAMPLE))
        if count > SAMPLE:
            generator = np.random.default_rng([zlib.crc32(name.encode()), index])
            ranks = np.sort(generator.choice(count, SAMPLE, replace=False, shuffle=False))
        samples[f"foreground_{index}"] = _voxels(label, index, ends, ranks)
    return samples


def _voxels(label: NDArray[np.uint8], index: int, ends: NDArray[Any], ranks: NDArray[Any]) -> NDArray[np.int32]:
    """Places (N, 3) of some of a class' voxels; plane by plane, as finding them needs 8 bytes a voxel.

    Args:
        label: classes.
        index: the class.
        ends: of its voxels, how many lie in each plane and those before.
        ranks: ascending; which of its voxels, counted in z, y, x order.
    """
    places = np.empty((len(ranks), 3), dtype=np.int32)
    places[:, 0] = np.searchsorted(ends, ranks, side="right")
    for z in np.unique(places[:, 0]):
        here = places[:, 0] == z
        before = ends[z - 1] if z else 0
        within = np.flatnonzero(label[z] == index)[ranks[here] - before]
        places[here, 1], places[here, 2] = np.divmod(within, label.shape[2])
    return places
