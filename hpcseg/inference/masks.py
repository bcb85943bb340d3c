"""Segment files into a folder of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.inference.predict import Advance, Mode
from hpcseg.inference.segment import Segmenter
from hpcseg.training.model import TrainedModel
from hpcseg.volumes.datasets import Progress, scan_name
from hpcseg.volumes.layouts import ENDINGS
from hpcseg.volumes.scans import read_grid, write_mask, write_shares


@dataclass(frozen=True)
class Wanted:
    """What to make of every scan.

    Attributes:
        mode: "paper" or "tiles", instead of the one that each model was configured with.
        largest: keep the largest connected component of each class only.
        probabilities: write a map of each class too.
    """

    mode: Mode | None = None
    largest: bool = False
    probabilities: bool = False


def models_and_images(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Tell models, which come first, from scans, which end with .nii.gz or .nii.

    Raises:
        BadInput: no model or no scan, or a model among the scans.
    """
    is_image = [path.name.endswith(ENDINGS) and not path.is_dir() for path in paths]
    count = is_image.index(True) if any(is_image) else len(paths)
    if count == 0:
        raise BadInput(f"{paths[0]}: a scan, and no model before it; give a run directory or a model.pt first")
    if count == len(paths):
        raise BadInput(f"{paths[-1]}: no scan; give NIfTI scans (.nii.gz or .nii) after the models")
    if not all(is_image[count:]):
        path = paths[is_image.index(False, count)]
        raise BadInput(f"{path}: neither .nii.gz nor .nii; convert it to NIfTI, or give it before the scans if a model")
    return list(paths[:count]), list(paths[count:])


def segment_files(
    models: Sequence[Path],
    images: Sequence[Path],
    folder: Path,
    *,
    wanted: Wanted = Wanted(),
    force: bool = False,
    progress: Progress | None = None,
    advance: Advance | None = None,
) -> Iterator[Path]:
    """Segment NIfTI scans; yields the path of each file when it is written.

    Files are `<folder>/<scan's name>.nii.gz`, the mask, and `<folder>/<scan's name>.p<class>.nii.gz`, probabilities.

    Args:
        models: model files, or run directories that hold one; their probabilities are averaged.
        images: scans; every header is checked before the first scan is segmented.
        folder: made if it is missing.
        wanted: what to make of every scan.
        force: replace files that exist.
        progress: called with every scan that is done.
        advance: called with every tile of a scan.

    Raises:
        BadInput: no such model, models of other classes, a scan is not sound, two scans have one name, or a file
            exists already.
    """
    trained = [TrainedModel.load(model) for model in models]
    classes = range(1, trained[0].class_count + 1) if wanted.probabilities else ()
    files = [_outputs(folder, image, classes) for image in images]
    _require_free(images, files, force)
    segmenter = Segmenter(*trained, mode=wanted.mode)
    for done, (image, (mask, *maps)) in enumerate(zip(images, files, strict=True)):
        if progress:
            progress(done, len(images), image.name)
        found = segmenter.segment(image, advance, probabilities=wanted.probabilities, largest=wanted.largest)
        if found.share_CZYX is not None:
            for path, share_zyx in zip(maps, found.share_CZYX, strict=True):
                write_shares(path, share_zyx, like=image)
        write_mask(mask, found.mask_zyx, like=image)  # last: where there is a mask, all is there
        yield from (mask, *maps)
    if progress:
        progress(len(images), len(images), "")


def _outputs(folder: Path, image: Path, classes: Sequence[int]) -> list[Path]:
    name = scan_name(image)
    return [folder / f"{name}.nii.gz", *(folder / f"{name}.p{label}.nii.gz" for label in classes)]


def _require_free(images: Sequence[Path], files: Sequence[Sequence[Path]], force: bool) -> None:
    """Check the scans' headers, that no two write to one file, and that nothing is replaced that should be kept."""
    scans = {image.resolve() for image in images}
    taken: set[Path] = set()
    for image, own in zip(images, files, strict=True):
        read_grid(image)
        for path in own:
            if path in taken:
                raise BadInput(f"{image}: a second scan named {scan_name(image)}; segment them into different folders")
            taken.add(path)
            if path.exists() and (not force or path.resolve() in scans):
                raise BadInput(f"{path}: exists; choose another --to, or --force to replace it")
