"""One case's way from its scan to what a chunk store holds of it: preprocessed, coded, counted. The format: `store`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.spec import IGNORED, CaseRef, PackSpec
from hpcseg.volumes.digests import scan_digest
from hpcseg.volumes.preprocess import n_classes, preprocess
from hpcseg.volumes.pyramid import count_codes, is_foreground
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import LEVELS

Plane = NDArray[np.uint8]

SAMPLE = 10_000  # foreground voxels kept per class


@dataclass(frozen=True, eq=False)
class PackedCase:
    """What is written of one case: the attributes of its group and its datasets, by name; and `unused`, values of its
    label that are of no class."""

    name: str
    attributes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    unused: tuple[int, ...] = ()


def pack_case(spec: PackSpec, case: CaseRef) -> PackedCase:
    """Preprocess and code one case.

    Raises:
        BadInput: its scan or label is bad, or the label has no foreground.
    """
    done = preprocess(
        case.image,
        case.label,
        spacing_zyx=spec.spacing_zyx,
        classes=spec.classes,
        padding=spec.padding,
        ignore=spec.ignore,
    )
    label = done.label_zyx
    if label is not None and not any(is_foreground(plane).any() for plane in label):
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
        arrays |= foreground_samples(case.name, label, n_classes(spec.classes))
    attributes: dict[str, Any] = {
        "slope": coded.coding.slope,
        "intercept": coded.coding.intercept,
        "padding": done.padding,
        "labelled": label is not None,
        "source_digest": scan_digest(case.image),
        "affine": done.grid.affine,
        "file_shape": np.array(done.grid.file_shape),
        "crop": np.array([(axis.start, axis.stop) for axis in done.crop]),
    }
    ignored = 0 if label is None else sum(int(np.count_nonzero(plane == IGNORED)) for plane in label)
    if label is not None and ignored:
        attributes["ignored"] = ignored
        arrays["known"] = sampled(case.name, label, IGNORED, lambda plane: plane != IGNORED)
    return PackedCase(case.name, attributes, arrays, done.unused)


def foreground_samples(name: str, label: NDArray[np.uint8], classes: int) -> dict[str, NDArray[Any]]:
    """Sample the voxels of each class, int32 (N, 3); the same ones whenever this case is packed from the same label."""

    def of_class(index: int) -> Callable[[Plane], NDArray[np.bool_]]:
        return lambda plane: plane == index

    return {f"foreground_{index}": sampled(name, label, index, of_class(index)) for index in range(1, classes)}


def sampled(
    name: str, label: NDArray[np.uint8], seed: int, wanted: Callable[[Plane], NDArray[np.bool_]]
) -> NDArray[np.int32]:
    """Up to `SAMPLE` of the wanted voxels of a label, int32 (N, 3), in z, y, x order.

    They are found plane by plane, as finding them needs 8 bytes a voxel.

    Args:
        name: of the case; with `seed` it decides which voxels are chosen.
        label: uint8 classes.
        seed: the class, or what stands for it.
        wanted: which voxels of a plane.
    """
    before = np.cumsum([0, *(np.count_nonzero(wanted(plane)) for plane in label)])  # voxels before each plane
    count = int(before[-1])
    ranks = np.arange(min(count, SAMPLE))  # which of the voxels, in z, y, x order
    if count > SAMPLE:
        generator = np.random.default_rng([zlib.crc32(name.encode()), seed])
        ranks = np.sort(generator.choice(count, SAMPLE, replace=False, shuffle=False))
    places = [np.empty((0, 3), np.int32)]
    for z, own in enumerate(np.split(ranks, np.searchsorted(ranks, before[1:-1]))):
        if len(own):
            y, x = np.divmod(np.flatnonzero(wanted(label[z]))[own - before[z]], label.shape[2])
            places.append(np.stack([np.full(len(own), z), y, x], axis=1))
    return np.concatenate(places).astype(np.int32)
