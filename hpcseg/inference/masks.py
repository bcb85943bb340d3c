"""Segment files into a folder of masks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcseg.errors import BadInput, BadInputs, HpcsegError, lack_of_space
from hpcseg.files import make_folder
from hpcseg.inference.outputs import AS_TRAINED, Wanted, map_path, mask_path, require_free
from hpcseg.inference.predict import Advance
from hpcseg.inference.segment import Segmentation, Segmenter, Work
from hpcseg.training.early import load_any
from hpcseg.volumes.datasets import Progress
from hpcseg.volumes.scans import write_mask, write_shares


def segment_files(
    models: Sequence[Path],
    images: Sequence[Path],
    folder: Path,
    *,
    wanted: Wanted = AS_TRAINED,
    force: bool = False,
    skip_existing: bool = False,
    progress: Progress | None = None,
    advance: Advance | None = None,
) -> Iterator[Path]:
    """Segment NIfTI scans; yields the path of each file when it is written.

    Files are `<folder>/<scan's name>.nii.gz`, the mask, and `<folder>/<scan's name>.p<class>.nii.gz`, probabilities.

    Args:
        models: model files, or run directories that hold one, or the checkpoint of a training under way; their
            probabilities are averaged.
        images: scans.
        folder: made if it is missing.
        wanted: what to make of every scan.
        force: replace files that exist.
        skip_existing: replace those of a scan whose mask is missing, as an earlier call left them.
        progress: called with every scan that is done.
        advance: called with every tile of a scan.

    Raises:
        BadInput: no such model, models of other classes, two scans have one name, or a file exists already. When all
            others are done: some scans are not sound (`BadInputs`).
        HpcsegError: there is no room for a mask; those before it are whole.
    """
    trained = [load_any(model) for model in models]
    classes = range(1, trained[0].class_count + 1) if wanted.probabilities else ()
    files = [[mask_path(folder, image), *(map_path(folder, image, label) for label in classes)] for image in images]
    require_free(images, files, force=force, skip_existing=skip_existing)
    bad: list[str] = []
    segmenter = Segmenter(*trained, mode=wanted.mode, precision=wanted.precision)
    places = dict(zip(images, files, strict=True))
    begun = itertools.count()

    def go_on() -> bool:
        if progress:
            progress(done := next(begun), len(images), images[done].name)
        return True

    def written(image: Path, found: Segmentation) -> list[Path]:
        mask, *maps = places[image]
        make_folder(folder)
        if found.share_CZYX is not None:
            for path, share_zyx in zip(maps, found.share_CZYX, strict=True):
                write_shares(path, share_zyx, like=image)
        write_mask(mask, found.mask_zyx, like=image)  # last: where there is a mask, all is there
        return places[image]

    def failed(_: Path, error: Exception) -> list[Path]:
        if full := lack_of_space(error):
            rest = "masks that are there are whole; make room, and --skip-existing goes on with the others"
            raise HpcsegError(f"{folder}: {full.strerror}; {rest}") from error
        if not isinstance(error, BadInput):
            raise error
        bad.append(str(error))
        return []

    for paths in segmenter.in_turn(images, Work(segmenter.read, written, advance, go_on, wanted, failed)):
        yield from paths
    if progress:
        progress(len(images), len(images), "")
    if bad:
        raise BadInputs(bad)
