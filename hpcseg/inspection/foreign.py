"""What a file or folder is that hpcseg cannot look into, in one line with what to do; nothing of it is ever deleted."""

from __future__ import annotations

from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.paths import STAGES
from hpcseg.text import listed, word
from hpcseg.volumes.datasets import DESCRIPTION, datasets_in
from hpcseg.volumes.layouts import scans_in
from hpcseg.volumes.seal import SEAL_BYTES, is_store

_LOOKED_AT = 3  # files of a folder
_CONVERT = "convert it to NIfTI (.nii.gz)"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MAGIC = (  # where in the file, what stands there, what that is, what to do
    (128, b"DICM", "a DICOM slice", "convert its series to NIfTI, as with dcm2niix, and inspect that"),
    (0, b"NRRD", "an NRRD file", f"{_CONVERT} and inspect that"),
    (0, b"ObjectType", "a MetaImage file", f"{_CONVERT} and inspect that"),
    (0, b"\x89PNG", "a picture", "give a scan, a dataset's folder, a store or a run directory"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it, or name it model.pt if it is a model"),
    (0, b"\x1f\x8b", "a gzip file", "give it the ending .nii.gz if it is a scan"),
    (0, _HDF5, "an HDF5 file, and no store of hpcseg", "give one that hpcseg has packed"),
    (0, b"\x5c\x01\x00\x00", "an Analyze or NIfTI header", f"{_CONVERT}, header and voxels in one file"),
    (0, b"\x00\x00\x01\x5c", "an Analyze or NIfTI header", f"{_CONVERT}, header and voxels in one file"),
)
_BY_ENDING = {
    ".toml": ("a TOML file", "a sweep file is shown by: hpcseg sweep FILE --plan"),
    ".json": ("a JSON file", "give the folder in which it lies"),
    ".dcm": ("a DICOM slice by its name", "convert its series to NIfTI, as with dcm2niix, and inspect that"),
}
_HEAD = 1024
_WANTED = "give a scan (.nii.gz), a dataset's folder, a store, a run directory or a model.pt"


def refuse_file(path: Path) -> None:
    """Refuse what is no store.

    Raises:
        BadInput: with what the file is, and what to do.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no file and no folder; {_WANTED}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if is_store(path) or head[SEAL_BYTES:].startswith(_HDF5):
        return
    what, remedy = _kind(path, head)
    raise BadInput(f"{path}: {what}; {remedy}")


def _kind(path: Path, head: bytes) -> tuple[str, str]:
    """What a file is, by its first bytes or its name, and what to do."""
    for at, magic, what, remedy in _MAGIC:
        if head[at:].startswith(magic):
            return what, remedy
    if path.suffix.lower() in _BY_ENDING:
        return _BY_ENDING[path.suffix.lower()]
    if not head:
        return "an empty file", _WANTED
    return "a text file" if _is_text(head) else "of no format that is known here", _WANTED


def require_dataset(folder: Path) -> None:
    """Refuse what holds no dataset.json itself.

    Raises:
        BadInput: with what is there instead, and what to do.
    """
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder; give a dataset's; hpcseg inspect {word(folder.parent)} says what is there"
        )
    inside = datasets_in(folder)
    if inside and not (folder / DESCRIPTION).is_file():
        names = listed([path.name for path in inside])
        raise BadInput(f"{folder}: has no {DESCRIPTION}, but the datasets {names}; give one of them: {word(inside[0])}")
    refuse_folder(folder)


def refuse_folder(folder: Path) -> None:
    """Refuse a folder that is no dataset.

    Raises:
        BadInput: with what lies there, and what to do.
    """
    if (folder / DESCRIPTION).is_file():
        return
    if any((folder / stage).is_dir() for stage in STAGES):
        raise BadInput(
            f"{folder}: a folder of runs; see hpcseg status --runs {word(folder)}, or inspect one run directory"
        )
    if scans := scans_in(folder):
        names = listed([path.name for path in scans])
        raise BadInput(
            f"{folder}: has no {DESCRIPTION}, but the scans {names}; inspect one of them, "
            f"or see what hpcseg init {word(folder)} takes them for"
        )
    if _has_dicom(folder):
        raise BadInput(f"{folder}: holds DICOM slices; convert the series to NIfTI, as with dcm2niix, and inspect that")
    raise BadInput(f"{folder}: has no {DESCRIPTION}, so that it is no dataset; {_WANTED}, or see hpcseg init")


def _has_dicom(folder: Path) -> bool:
    for path in sorted(folder.iterdir())[:_LOOKED_AT]:
        if path.is_file():
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False


def _is_text(head: bytes) -> bool:
    return b"\0" not in head and sum(byte < 9 for byte in head) == 0
