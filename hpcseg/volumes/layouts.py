"""What a dataset's folder holds and its `dataset.json` does not say, or the other way round; in words for its owner."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from hpcseg.text import listed

ENDINGS = (".nii.gz", ".nii")  # of scans
CHANNEL = "_0000"  # of nnU-Net's images
_OTHER_CHANNEL = re.compile(r"(.+)_(\d{4})")


def stem(path: PurePath) -> str:
    """Name of a scan without its NIfTI ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def with_channel(image: Path) -> Path:
    """What nnU-Net calls the first channel of an image.

    >>> with_channel(Path("imagesTr/case_1.nii.gz")).as_posix()
    'imagesTr/case_1_0000.nii.gz'
    """
    return image.with_name(f"{stem(image)}{CHANNEL}{image.name.removeprefix(stem(image))}")


def scans_in(folder: Path) -> list[Path]:
    """NIfTI files of a folder, sorted; [] where it is missing."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(ENDINGS) and not path.name.startswith("."))


def layout_notes(
    root: Path, description: Mapping[str, Any], training: Sequence[str], *, is_nnunet: bool
) -> Iterator[str]:
    """What is there and not listed, or said and not there.

    Args:
        root: folder of the dataset.
        description: its `dataset.json`.
        training: names of the training cases that were found, or are listed.
        is_nnunet: whether images are found by their names.
    """
    said = description.get("numTraining")
    if isinstance(said, int) and not isinstance(said, bool) and said != len(training):
        found = "found in imagesTr" if is_nnunet else "listed in it"
        yield f"{root}: dataset.json says numTraining {said}, but {len(training)} are {found}"
    if not is_nnunet:
        return
    without = sorted({stem(path) for path in scans_in(root / "labelsTr")} - {*training})
    if without:
        yield f"{root}: labels without an image {CHANNEL} in imagesTr, left out: {listed(without)}"
    for part in ("imagesTr", "imagesTs"):
        channels, odd = set(), []
        for path in scans_in(root / part):
            match = _OTHER_CHANNEL.fullmatch(stem(path))
            if match is None:
                odd.append(path.name)
            elif f"_{match[2]}" != CHANNEL:
                channels.add(match[2])
        if channels:
            yield (
                f"{root}: {part} holds channel {', '.join(sorted(channels))}, which channel_names does not list; "
                f"only channel {CHANNEL[1:]} is used"
            )
        if odd and training:
            yield f"{root}: {part} holds images without {CHANNEL} in their names, left out: {listed(odd)}"


def why_empty(root: Path, description: Mapping[str, Any], *, is_nnunet: bool) -> str:
    """Why no case is found, and what to do."""
    there = scans_in(root / "imagesTr")
    if not is_nnunet:
        if there and any(stem(path).endswith(CHANNEL) for path in there):
            return (
                'dataset.json has "modality" and no "training" list, but the files are in nnU-Net\'s layout; '
                'write "channel_names" in place of "modality", and "file_ending"'
            )
        return (
            'dataset.json lists none under "training" or "test"; list {"image": ..., "label": ...} of each case there'
        )
    ending = str(description.get("file_ending", ENDINGS[0]))
    if not there:
        return f"imagesTr has no NIfTI file; in nnU-Net's layout images are imagesTr/CASE{CHANNEL}{ending}"
    if any(stem(path).endswith(CHANNEL) for path in there):
        names = listed([path.name for path in there])
        return f"dataset.json says file_ending {ending!r}, but imagesTr holds {names}; correct it"
    first = there[0].name
    return (
        f"in nnU-Net's layout images are CASE{CHANNEL}{ending}, one file per channel, but imagesTr holds "
        f"{listed([path.name for path in there])}; rename them ({first} -> {with_channel(there[0]).name})"
    )
