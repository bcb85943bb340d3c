"""Synthetic abdominal CTs in the layout of the Medical Segmentation Decathlon, for demos and tests without patients.

Case k of a set is a pure function of (seed, set, k): more cases, or fewer, leave the others as they are.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.files import write_json
from hpcseg.phantoms.anatomy import draw_abdomen
from hpcseg.volumes.datasets import Progress

SETS = ("train", "test", "unlabelled")
FILE_AXES = ("LPS", "RAS", "LAS", "PIR", "ASL")  # as scanners and converters leave them; drawn per case
OBLIQUE_SHARE = 0.3
OBLIQUE_ANGLE = 8.0  # degrees, at most


@dataclass(frozen=True)
class Phantom:
    """A case in memory: `volume_zyx` int16 HU and `label_zyx` uint8 on RAS+ axes, and the RAS+ affine (4, 4) in mm."""

    volume_zyx: NDArray[np.int16]
    label_zyx: NDArray[np.uint8]
    affine: NDArray[np.float64]
    file_axes: str  # orientation of the file, e.g. "LPS"


def draw_phantom(seed: int, kind: str, number: int, size: int = 96) -> Phantom:
    """Draw case `number` of the set `kind`.

    Args:
        seed: of the whole dataset.
        kind: "train", "test" or "unlabelled".
        number: of the case in its set, from 0.
        size: voxels across the patient, in plane. The field of view is 350 to 430 mm whatever the size; slices are 3 to
            6 mm thick, and in proportion thicker below 96 voxels.
    """
    key = np.array([seed, SETS.index(kind) << 32 | number], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    in_plane = rng.uniform(350, 430) / size
    slices = rng.uniform(3, 6) * max(1.0, 96 / size)
    top, bottom = rng.uniform(85, 125), -rng.uniform(110, 150)
    spacing = np.round((slices, in_plane, in_plane), 3)
    shape = (max(4, int((top - bottom) / spacing[0])), size, size)
    affine = _affine(rng, shape[::-1], spacing[::-1], top)
    file_axes = str(rng.choice(FILE_AXES))
    volume_zyx, label_zyx = draw_abdomen(rng, shape, (spacing[0], spacing[1], spacing[2]), top)
    return Phantom(np.rint(volume_zyx).astype(np.int16), label_zyx, affine, file_axes)


def write_phantoms(
    folder: Path,
    *,
    training: int = 12,
    test: int = 4,
    unlabelled: int = 0,
    seed: int = 0,
    size: int = 96,
    progress: Progress | None = None,
) -> None:
    """Write a dataset of abdominal CT phantoms into the new folder `folder`, whole or not at all.

    Labels: 1 liver, 2 tumour. `imagesTr` and `labelsTr` hold the training cases, `imagesTs` and `labelsTs` the test
    cases; the unlabelled ones are in `imagesTs` only. `size` is in voxels, as in `draw_phantom`.

    Args:
        progress: called as progress(cases done, cases, name of the case).

    Raises:
        BadInput: `folder` holds something already, or a number makes no sense.
    """
    counts = dict(zip(SETS, (training, test, unlabelled), strict=True))
    _check(folder, counts, seed, size)
    folder = folder.resolve()  # of a link what it leads to
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        names = [(kind, number, f"{kind}_{number:03d}") for kind in SETS for number in range(counts[kind])]
        for done, (kind, number, name) in enumerate(names, start=1):
            _write_case(temporary, kind, name, draw_phantom(seed, kind, number, size))
            if progress is not None:
                progress(done, len(names), name)
        write_json(temporary / "dataset.json", _description(folder.name, [(kind, name) for kind, _, name in names]))
        temporary.chmod(0o755)
        temporary.rename(folder)  # replaces an empty folder, and refuses any other
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(folder: Path, counts: dict[str, int], seed: int, size: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: already holds something; give a new or empty folder for the phantoms")
    if folder.exists() and folder.samefile(Path.cwd()):  # it would be replaced below the user's feet
        raise BadInput(f"{folder}: is the folder that you are in; give a new one in it, such as {folder / 'Phantoms'}")
    if counts["train"] < 1 or min(counts.values()) < 0:
        raise BadInput(
            f"{folder}: phantoms need at least 1 training case and no negative numbers of cases: --training 1"
        )
    if seed < 0:
        raise BadInput(f"{folder}: the seed of phantoms is {seed}; give 0 or more")
    if size < 24:
        raise BadInput(f"{folder}: phantoms of {size} voxels are too coarse to show organs; give --size 24 or more")


def _affine(
    rng: np.random.Generator, shape_xyz: tuple[int, ...], spacing_xyz: NDArray[np.float64], top: float
) -> NDArray[np.float64]:
    """RAS+ affine with the uppermost slice at `top` mm, off centre as patients lie, slightly oblique for some."""
    rotation = np.eye(3)
    if rng.random() < OBLIQUE_SHARE:
        axis = rng.standard_normal(3)
        x, y, z = axis / np.linalg.norm(axis)
        angle = np.radians(rng.uniform(2, OBLIQUE_ANGLE))
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = rotation + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew)  # Rodrigues' formula
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing_xyz
    centre = np.array([0, 0, top - (shape_xyz[2] - 1) / 2 * spacing_xyz[2]]) + rng.normal(0, 8, 3)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape_xyz) - 1) / 2)
    return affine


def _write_case(root: Path, kind: str, name: str, phantom: Phantom) -> None:
    ending = "Tr" if kind == "train" else "Ts"
    _save(root / f"images{ending}" / f"{name}.nii.gz", phantom.volume_zyx, phantom)
    if kind != "unlabelled":
        _save(root / f"labels{ending}" / f"{name}.nii.gz", phantom.label_zyx, phantom)


def _save(path: Path, array_zyx: NDArray[np.int16] | NDArray[np.uint8], phantom: Phantom) -> None:
    canonical = nib.Nifti1Image(array_zyx.transpose(2, 1, 0), phantom.affine)
    turn = ornt_transform(io_orientation(phantom.affine), axcodes2ornt(phantom.file_axes))
    image = canonical.as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code="scanner")
    image.set_sform(image.affine, code="scanner")
    path.parent.mkdir(exist_ok=True)
    nib.save(image, path)


def _description(name: str, cases: list[tuple[str, str]]) -> dict[str, object]:
    """The content of dataset.json for `cases` (set, name)."""
    training = [name for kind, name in cases if kind == "train"]
    others = [name for kind, name in cases if kind != "train"]
    return {
        "name": name,
        "description": "Synthetic abdominal CTs made by `hpcseg phantom`; not patients",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "numTraining": len(training),
        "numTest": len(others),
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in training],
        "test": [f"./imagesTs/{name}.nii.gz" for name in others],
    }
