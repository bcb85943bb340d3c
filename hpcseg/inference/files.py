"""Segment files into a folder of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.inference.segment import Segmenter
from hpcseg.training.model import TrainedModel
from hpcseg.volumes.scans import read_grid, write_mask

Progress = Callable[[int, int, str], None]  # scans done, scans in all, name


def segment_files(
    model: Path, images: Sequence[Path], folder: Path, *, force: bool = False, progress: Progress | None = None
) -> Iterator[Path]:
    """Segment NIfTI scans; yields the path of each mask, `<folder>/<scan's name>.nii.gz`, when it is written.

    Args:
        model: a model file, or a run directory that holds one.
        images: scans; every header is checked before the first scan is segmented.
        folder: made if it is missing.
        force: replace masks that exist.
        progress: called with every scan that is done.

    Raises:
        BadInput: no such model, a scan is not sound, two scans have one name, or a mask exists already.
    """
    trained = TrainedModel.load(model)
    masks = [folder / f"{scan_name(image)}.nii.gz" for image in images]
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        read_grid(image)
        if mask in masks[:index]:
            raise BadInput(f"{image}: a second scan named {scan_name(image)}; segment them into different folders")
        if mask.exists() and (not force or mask.samefile(image)):
            raise BadInput(f"{mask}: exists; choose another --to, or --force to replace it")
    segmenter = Segmenter(trained)
    for done, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if progress:
            progress(done, len(images), image.name)
        found = segmenter.segment(image)
        write_mask(mask, found.mask_zyx, found.grid, like=image)
        yield mask
    if progress:
        progress(len(images), len(images), "")


def scan_name(image: Path) -> str:
    """Name of a scan without its NIfTI ending."""
    return image.name.removesuffix(".gz").removesuffix(".nii")
