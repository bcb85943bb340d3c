"""Which slices show a case: three through the centre of its label, from a scan or from a store.

Images are (rows, columns), row 0 at the bottom, as a radiologist looks at them: the patient's right is at the left, the
front is up (axial) or at the left (sagittal). Sizes are in mm, so voxels need not be cubes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcseg.spec import Spacing
from hpcseg.volumes.store import LEVELS, StoredCase

Window = tuple[float, float]

CT_WINDOW: Window = (-160.0, 240.0)  # HU


@dataclass(frozen=True, eq=False)
class View:
    """One slice.

    Attributes:
        image, label: (rows, columns); the label may be None.
        spacing: of rows and columns, mm.
        letters: where left, right, bottom and top of the slice lie in the patient; "" leaves them away.
        title: above it.
        lines: row and column where the other slices are; None leaves them away.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    spacing: tuple[float, float]
    letters: str = ""
    title: str = ""
    lines: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Height and width, mm."""
        return self.image.shape[0] * self.spacing[0], self.image.shape[1] * self.spacing[1]


@dataclass(frozen=True, eq=False)
class Picture:
    """What is drawn of a case: name, caption, three slices (axial first), small ones, window, names of label values."""

    name: str
    caption: str
    views: tuple[View, ...]
    small: tuple[View, ...]
    window: Window
    labels: Mapping[int, str]


def picture_scan(
    name: str,
    volume_zyx: NDArray[np.float32],
    label_zyx: NDArray[np.uint8] | None,
    spacing_zyx: Spacing,
    *,
    note: str,
    window: Window,
    labels: Mapping[int, str],
) -> Picture:
    """Picture of a scan in canonical orientation, through the centre of its label, or of the volume.

    Args:
        name: of the case.
        volume_zyx, label_zyx: voxels and label values; None: no label.
        spacing_zyx: mm.
        note: ends the caption.
        window: intensities of black and of white.
        labels: value -> name, for the legend.
    """
    at = None if label_zyx is None else _centre(label_zyx)
    views = _three_views(
        lambda axis, index: np.moveaxis(volume_zyx, axis, 0)[index],
        None if label_zyx is None else lambda axis, index: np.moveaxis(label_zyx, axis, 0)[index],
        volume_zyx.shape,
        spacing_zyx,
        at or [n // 2 for n in volume_zyx.shape],
    )
    return Picture(name, f"{_geometry(volume_zyx.shape, spacing_zyx)}, {note}", views, (), window, labels)


def picture_stored(case: StoredCase, spacing_zyx: Spacing, window: Window) -> Picture:
    """Picture of a stored case: level 0 with its classes, and the pooled levels beside it, as they are stored.

    Raises:
        StoreError: the case is damaged.
    """
    voxels = [found for found in case.foreground_by_class.values() if len(found)]
    at = np.rint(np.concatenate(voxels).mean(axis=0)).astype(int).tolist() if voxels else None
    at = at or [n // 2 for n in case.shape_zyx]

    def image(axis: int, index: int, level: int = 0) -> NDArray[np.float32]:
        return case.coding.decode(case.read(level, *_plane(axis, index, case.shape_of(level)))).squeeze(axis)

    def label(axis: int, index: int) -> NDArray[np.uint8]:
        return case.read_label(*_plane(axis, index, case.shape_zyx)).squeeze(axis)

    views = _three_views(image, label if case.labelled else None, case.shape_zyx, spacing_zyx, at)
    small = []
    for level in range(1, LEVELS):
        plane = image(0, min(at[0] >> level, case.shape_of(level)[0] - 1), level)
        size = (spacing_zyx[1] * 2**level, spacing_zyx[2] * 2**level)
        small.append(View(plane[:, ::-1], None, size, title=f"level {level}: {_product(case.shape_of(level))}"))
    classes = {index: f"class {index}" for index in case.foreground_by_class}
    return Picture(case.name, _geometry(case.shape_zyx, spacing_zyx), views, tuple(small), window, classes)


def choose_window(percentiles: Window, under_label: Window | None, *, is_ct: bool) -> Window:
    """Intensities of black and of white.

    Args:
        percentiles: 0.5 and 99.5 % of all voxels, which a scan without HU is shown between.
        under_label: the same of the labelled voxels. A CT is shown in the soft-tissue window where that holds most of
            these, else in one twice as wide as they are.
        is_ct: whether intensities are HU.
    """
    low, high = percentiles
    if is_ct:
        low, high = CT_WINDOW
        if under_label is not None and not low <= sum(under_label) / 2 <= high:
            margin = max(100.0, (under_label[1] - under_label[0]) / 2)
            low, high = under_label[0] - margin, under_label[1] + margin
    return (low, high) if low < high else (low - 1, high + 1)


def _plane(axis: int, index: int, shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Corner and size of the box that is one slice."""
    return [index if n == axis else 0 for n in range(3)], [1 if n == axis else size for n, size in enumerate(shape)]


def _three_views(
    image: Callable[[int, int], NDArray[np.float32]],
    label: Callable[[int, int], NDArray[np.uint8]] | None,
    shape: Sequence[int],
    spacing_zyx: Spacing,
    at: Sequence[int],
) -> tuple[View, ...]:
    views = []
    for axis, (title, letters) in enumerate((("axial", "RLPA"), ("coronal", "RLIS"), ("sagittal", "APIS"))):
        row, column = (n for n in range(3) if n != axis)
        views.append(
            View(
                image=image(axis, at[axis])[:, ::-1].copy(),  # a copy lets go of the volume
                label=None if label is None else label(axis, at[axis])[:, ::-1].copy(),
                spacing=(spacing_zyx[row], spacing_zyx[column]),
                letters=letters,
                title=f"{title} {at[axis]}",
                lines=(at[row] + 0.5, shape[column] - at[column] - 0.5),
            )
        )
    return tuple(views)


def _centre(label_zyx: NDArray[np.uint8]) -> list[int] | None:
    """Voxel nearest to the centre of mass of all values but 0."""
    inside = label_zyx > 0
    counts = [np.count_nonzero(inside, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    total = int(counts[0].sum())
    return [round(float(np.arange(len(found)) @ found) / total) for found in counts] if total else None


def _geometry(shape: Sequence[int], spacing: Sequence[float]) -> str:
    return f"{_product(shape)} voxels of {_product(spacing)} mm (z, y, x)"


def _product(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)
