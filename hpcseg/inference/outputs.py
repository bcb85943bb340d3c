"""What `hpcseg segment` is given and what it is to write: all that is settled before a network is loaded."""

from __future__ import annotations

import csv
import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.errors import BadInput
from hpcseg.files import read_bytes
from hpcseg.inspection.layout_guess import labels_among
from hpcseg.owners import require_writable
from hpcseg.paths import MODEL_FILE, RUN_FILE
from hpcseg.text import csv_rows, listed, word
from hpcseg.volumes.layouts import ENDINGS, scans_in, stem

if TYPE_CHECKING:
    from hpcseg.inference.predict import Mode
    from hpcseg.training.precision import Number


@dataclass(frozen=True)
class Wanted:
    """What to make of every scan.

    Attributes:
        mode: "paper" or "tiles", instead of the one that each model was configured with.
        precision: "float32", "bfloat16" or "float16", likewise; float32 on a device without it.
        largest: keep the largest connected component of each class only.
        probabilities: write a map of each class too.
    """

    mode: Mode | None = None
    precision: Number | None = None
    largest: bool = False
    probabilities: bool = False


AS_TRAINED = Wanted()


def models_and_images(
    paths: Sequence[Path], note: Callable[[str], None] = lambda line: None
) -> tuple[list[Path], list[Path]]:
    """Tell models, which come first, from scans: NIfTI files, folders of them, patterns with * and CSV lists.

    A CSV list has a scan per line, in its column "image" or else the first, relative to its own folder. Of a folder
    that holds labels beside their scans (`a_seg.nii.gz` beside `a.nii.gz`) only the scans count.

    Args:
        paths: as the user gave them.
        note: called with a line for each folder with labels.

    Raises:
        BadInput: no model or no scan, a model among the scans, or a list or pattern without a scan.
    """
    scans = [_scans(path, note) for path in paths]
    count = next((index for index, found in enumerate(scans) if found is not None), len(paths))
    if count == 0:
        raise BadInput(f"{paths[0]}: a scan, and no model before it; give a run directory or a model.pt first")
    if count == len(paths):
        raise BadInput(f"{paths[-1]}: no scan; give NIfTI scans (.nii.gz or .nii) after the models")
    images: list[Path] = []
    for path, found in zip(paths[count:], scans[count:], strict=True):
        if found is None:
            raise BadInput(
                f"{path}: neither .nii.gz nor .nii; convert it to NIfTI, or give it before the scans if a model"
            )
        images += found
    return list(paths[:count]), images


def free_images(images: Sequence[Path], folder: Path, *, force: bool, skip_existing: bool) -> list[Path]:
    """Check that nothing is replaced that should be kept; returns the scans that are left to do.

    Args:
        images: scans.
        folder: of the masks.
        force: masks that exist are replaced.
        skip_existing: scans whose masks exist are left out.

    Raises:
        BadInput: two scans have one name, a mask exists or would replace a scan, or the folder cannot be written in.
    """
    masks = [mask_path(folder, image) for image in images]
    require_no_scan(images, masks)
    _require_distinct(images, [[mask] for mask in masks])
    left = [image for image, mask in zip(images, masks, strict=True) if not (skip_existing and mask.exists())]
    _require_absent([mask_path(folder, image) for image in left], force=force)
    if left:
        require_writable(folder, "give another --to")
    return left


def _require_distinct(images: Sequence[Path], files: Sequence[Sequence[Path]]) -> None:
    """Raise BadInput where two scans write to one file, whether it exists or not."""
    taken: set[Path] = set()
    for image, own in zip(images, files, strict=True):
        if not taken.isdisjoint(own):
            raise BadInput(f"{image}: a second scan named {stem(image)}; segment them into different folders")
        taken.update(own)


def require_no_scan(images: Sequence[Path], files: Sequence[Path]) -> None:
    """Raise BadInput where one of the files to be written is one of the scans: it is never replaced, nor its mask."""
    scans = {image.resolve() for image in images}
    if found := next((path for path in files if path.resolve() in scans), None):
        raise BadInput(f"{found}: exists and is a scan, and no mask; give another --to")


def mask_path(folder: Path, image: Path) -> Path:
    """Where a scan's mask is written."""
    return folder / f"{stem(image)}.nii.gz"


def map_path(folder: Path, image: Path, label: int) -> Path:
    """Where a scan's probabilities of a class are written."""
    return folder / f"{stem(image)}.p{label}.nii.gz"


def require_free(
    images: Sequence[Path], files: Sequence[Sequence[Path]], *, force: bool, skip_existing: bool = False
) -> None:
    """Check that no two scans write to one file, and that nothing is replaced that should be kept.

    Args:
        images: scans.
        files: of each scan, its mask first, which is written last.
        force: files that exist are replaced.
        skip_existing: so are those of a scan without a mask, with which an earlier call did not come to its end.

    Raises:
        BadInput: see `free_images`.
    """
    require_no_scan(images, [path for own in files for path in own])
    _require_distinct(images, files)
    _require_absent([path for own in files if own[0].exists() or not skip_existing for path in own], force=force)


def _require_absent(files: Sequence[Path], *, force: bool) -> None:
    if not force and (first := next((path for path in files if path.exists()), None)):
        raise BadInput(f"{first}: exists; choose another --to, --force to replace it, or --skip-existing to go on")


def _scans(path: Path, note: Callable[[str], None]) -> list[Path] | None:
    """The scans that a path stands for; None where it is no scan."""
    if path.is_dir():
        if (path / RUN_FILE).exists() or (path / MODEL_FILE).exists():
            return None
        found = scans_in(path)
        if not found:
            _refuse_deeper(path)
        labels = dict.fromkeys(labels_among([one.name for one in found]))
        if labels:
            note(f"{path}: left out as labels, by their names: {listed([*labels])}; name a file itself to segment it")
        return [one for one in found if one.name not in labels] or None
    if path.suffix == ".csv":
        return _listed(path)
    if glob.has_magic(str(path)) and not path.exists():
        found = [Path(name) for name in sorted(glob.glob(str(path))) if name.endswith(ENDINGS)]  # noqa: PTH207
        if not found:
            raise BadInput(f"{path}: no NIfTI scan matches this pattern; correct it")
        return found
    return [path] if path.name.endswith(ENDINGS) else None


def _refuse_deeper(folder: Path) -> None:
    """Raise BadInput where a folder has no scans, but folders in it have."""
    for depth in ("*", "*/*"):
        if deeper := [one for one in sorted(folder.glob(depth)) if scans_in(one)]:
            few = listed([str(one) for one in deeper])
            raise BadInput(
                f"{folder}: its scans lie deeper, in {few}; give one of these, or {word(folder / depth / '*.nii*')}"
            )


def _listed(path: Path) -> list[Path]:
    try:
        rows = csv_rows(read_bytes(path).decode())
    except (UnicodeDecodeError, csv.Error):
        raise BadInput(f"{path}: not a CSV list in UTF-8; write a scan per line") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    column = header.index("image") if "image" in header else 0
    names = [row[column] for row in rows[bool("image" in header) :] if len(row) > column]
    odd = next((name for name in names if not name.endswith(ENDINGS)), None)
    if odd is not None or not names:
        what = "lists no scan" if odd is None else f"lists {odd!r}, which is no NIfTI scan (.nii.gz or .nii)"
        raise BadInput(f"{path}: {what}; write one per line, or name the column image")
    return [path.parent / name for name in names]
