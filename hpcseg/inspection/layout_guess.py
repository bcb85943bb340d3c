"""Which scans of a folder that nobody prepared are images, which are labels, and which belong together. Pure.

Paths go in, relative to the folder; cases come out, each with the reason why its two files were taken for a pair. A
file is a label by a word in its name (`_seg`, `label-`, `.mask`) or in that of its folder (`labelsTr`, `masks`); where
no name in the whole folder says so, by its content. What is left open is refused, never chosen in silence.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from hpcseg.errors import BadInput
from hpcseg.text import counted, listed
from hpcseg.volumes.layouts import CHANNEL, stem

Part = Literal["training", "test", "unlabelled"]
Words = tuple[str, ...]
Pairs = Mapping[str, str | None]

HINT = "say which belong together in a pairs.csv in the folder: first line image,label, then a line for each case"
_LABEL = {"label", "labels", "labelstr", "labelsts", "lbl", "seg", "segs", "segmentation", "segmentations", "mask"}
_LABEL |= {"masks", "gt", "dseg", "groundtruth", "annotation", "annotations", "roi", "contour", "contours"}
_IMAGE = {"image", "images", "imagestr", "imagests", "img", "imgs", "scan", "scans", "volume", "volumes", "anat"}
_IMAGE |= {"ct", "mr", "mri"}
_ROLES = _LABEL | _IMAGE
_MODALITY = {"t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "t2star", "flair", "pd", "pdw", "dwi", "adc", "swi"}
_MODALITY |= {"pet", "ct", "cta", "mr", "mri"}
_TEST = {"test", "testing", "imagests", "labelsts"}
_GLUED = re.compile(r"(img|image|label|seg|mask|volume|scan|gt)(\d+)")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_BIDS = re.compile(r"(.*/)?sub-[^/_]+(_[^/]*)?")
_VISITS = 8  # scans of a patient, at most, in a folder of its own


@dataclass(frozen=True)
class FoundCase:
    """A scan and its label, if it has one; paths as they were given."""

    name: str
    image: str
    label: str | None
    part: Part
    reason: str


@dataclass(frozen=True)
class Guess:
    """What a folder was taken for: its layout in words, the cases by name, and what was left out."""

    layout: str
    cases: tuple[FoundCase, ...]
    notes: tuple[str, ...] = ()

    def of(self, part: Part) -> list[FoundCase]:
        """The cases of one part."""
        return [case for case in self.cases if case.part == part]

    def in_one_folder(self) -> list[list[str]]:
        """Names of training cases that lie in one folder with their labels, where there is one for each patient, and of
        the other cases there.

        That is taken for so where there are three such folders or more, of a few training cases each.
        """
        folders: defaultdict[tuple[PurePosixPath, ...], list[str]] = defaultdict(list)
        for case in self.of("training"):
            folders[tuple({PurePosixPath(path).parent for path in (case.image, case.label) if path})].append(case.name)
        one_each = all(len(places) == 1 and len(names) <= _VISITS for places, names in folders.items())
        if not one_each or len(folders) < 3:
            return []
        for case in (case for case in self.cases if case.part != "training"):
            folder = PurePosixPath(case.image).parent
            if (folder,) in folders:
                folders[(folder,)].append(case.name)
        return [*folders.values()]


def guess_cases(paths: Sequence[str], is_label: Callable[[str], bool], pairs: Pairs | None = None) -> Guess:
    """Sort the scans of a folder into cases.

    >>> guess = guess_cases(["a.nii.gz", "a_seg.nii.gz", "b.nii.gz"], lambda path: False)
    >>> [(case.name, case.label, case.part) for case in guess.cases]
    [('a', 'a_seg.nii.gz', 'training'), ('b', None, 'unlabelled')]

    Args:
        paths: of all NIfTI files, with / between folders.
        is_label: whether a file's voxels are a label's; asked only where no name tells.
        pairs: image -> its label, of a list that the folder holds; scans that it lacks are left out.

    Raises:
        BadInput: no label, or names that fit in more than one way.
    """
    if pairs is not None:
        left = sorted({*paths} - {*pairs, *pairs.values()})
        notes = [f"not in the list, left out: {listed(left)}"] if left else []
        return Guess("a list of pairs", _cases(pairs, dict.fromkeys(pairs, "the list says so")), tuple(notes))
    labels, how = [path for path in paths if _is_label(path)], ""
    if not labels:
        labels, how = [path for path in paths if is_label(path)], "few whole numbers in it; "
    images = [path for path in paths if path not in {*labels} and "derivatives" not in PurePosixPath(path).parts]
    if not labels or not images:
        what = "label" if images else "image"
        raise BadInput(f"no {what} among {counted(len(paths), 'scan')} ({listed(paths)}), by name or content; {HINT}")
    found, reasons = _match(images, labels)
    others = _other_channels(images, found)
    notes = [
        f"{what}, left out: {listed(sorted(left))}"
        for what, left in (
            ("labels without an image", {*labels} - {*found.values()}),
            ("other channels of a scan, or another modality", others),
            ("derived images", {*paths} - {*images, *labels}),
        )
        if left
    ]
    kept = {image: found.get(image) for image in images if image not in others}
    return Guess(_layout(kept), _cases(kept, {image: how + reason for image, reason in reasons.items()}), tuple(notes))


def labels_among(names: Collection[str]) -> list[str]:
    """Files of one folder that are labels of others in it, by their names.

    >>> labels_among(["a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "seg_7.nii.gz"])
    ['a_seg.nii.gz']
    """
    labels = dict.fromkeys(name for name in names if _is_label(name))
    images = {_key(name) for name in names if name not in labels}
    return [name for name in labels if _key(name) in images]


def _stem(path: str) -> str:
    return stem(PurePosixPath(path))


def _words(text: str) -> list[str]:
    """Words of a name; hyphens join (`sub-01`), unless a side of theirs says what the file is.

    >>> _words("sub-01_T1w"), _words("case_7-label"), _words("img0003")
    (['sub-01', 't1w'], ['case', '7', 'label'], ['img', '0003'])
    """
    found: list[str] = []
    for word in re.split(r"[_.\s]+", text.lower()):
        parts = word.split("-")
        for part in parts if {*parts} & _ROLES else [word]:
            glued = _GLUED.fullmatch(part)
            found += glued.groups() if glued else [part]
    return [word for word in found if word]


def _is_label(path: str) -> bool:
    """By its name, else by the nearest folder whose name says what its files are."""
    for text in (_stem(path), *reversed(PurePosixPath(path).parent.parts)):
        words = {text.lower(), *_words(text)}
        if words & _LABEL or (words & _IMAGE and text != _stem(path)):
            return bool(words & _LABEL)
    return False


def _key(path: str, name: str | None = None, *, folders: bool = True, drop: Collection[str] = ()) -> Words:
    """What tells a case from others: the words of its folders and its name but those that say what the file is."""
    own = _words(_stem(path) if name is None else name)
    above: list[str] = []
    for folder in PurePosixPath(path).parent.parts if folders else ():
        lower = folder.lower()
        above += ["test"] if lower in _TEST else [] if lower in _ROLES | {"derivatives"} else _words(folder)
    words = [*(word for word in above if word not in own), *own]
    return tuple(word for word in words if word not in _ROLES and word not in drop)


def _first_channel(path: str) -> Words | None:
    """Key of an image in nnU-Net's layout without its channel; None of others."""
    return _key(path, _stem(path).removesuffix(CHANNEL)) if _stem(path).endswith(CHANNEL) else None


def _match(images: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Image -> label and image -> why, by one way to compare names after the other, the strictest first.

    Raises:
        BadInput: a label fits several images, or an image several labels.
    """
    found: dict[str, str] = {}
    reasons: dict[str, str] = {}
    clashes: dict[str, list[str]] = {}

    def left(paths: Sequence[str]) -> list[str]:
        taken = {*found, *found.values()}
        return [path for path in paths if path not in taken]

    def pair(reason: str, of_image: Callable[[str], Hashable], of_label: Callable[[str], Hashable]) -> None:
        alike: defaultdict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for image in left(images):
            alike[of_image(image)][0].append(image)
        for label in left(labels):
            alike[of_label(label)][1].append(label)
        alike.pop(None, None)
        for some, marks in alike.values():
            if len(some) == len(marks) == 1:
                found[some[0]], reasons[some[0]] = marks[0], reason
            elif some and marks:
                clashes.update(dict.fromkeys(marks, some if len(some) > 1 else [*some, *marks]))

    pair("the same words in folders and name", _key, _key)
    pair("nnU-Net's first channel", _first_channel, _key)
    pair("the same name in another folder", *[lambda path: _key(path, folders=False) or None] * 2)
    if min(len(left(images)), len(left(labels))) > 1:
        common = [frozenset.intersection(*(frozenset(_key(path)) for path in left(side))) for side in (images, labels)]
        pair("names alike but for words that all have", *[_without(words) for words in common])
    keys = {image: _key(image) for image in images}
    fits = {label: [image for image in images if _fits(keys[image], _key(label))] for label in left(labels)}
    for label, some in fits.items():
        rivals = [other for other, theirs in fits.items() if {*theirs} & {*some}]
        if len(some) == len(rivals) == 1 and some[0] not in found:
            found[some[0]], reasons[some[0]] = label, "names alike but for the kind of scan or of label"
        elif some:
            clashes[label] = some if len(some) > 1 else [*some, *filter(None, [found.get(some[0])]), *rivals]
    for label in left(labels):
        if clash := [path for path in clashes.get(label, ()) if path != label]:
            raise BadInput(f"{label} fits {listed(clash)} alike; a case is one image and one label file; {HINT}")
    if not found:
        raise BadInput(f"no label ({listed(labels)}) fits an image ({listed(images)}) by name; {HINT}")
    return found, reasons


def _without(words: Collection[str]) -> Callable[[str], Hashable]:
    return lambda path: _key(path, drop=words) or None


def _fits(image: Words, label: Words) -> bool:
    """Whether a label's name is an image's and more, or lacks nothing of it but the kind of scan."""
    lacking = {*image} - {*label}
    kinds = {word for word in lacking if word in _MODALITY or word.startswith(("acq-", "rec-", "ce-", "run-"))}
    return bool(image and label) and lacking == kinds and (not lacking or {*label} <= {*image})


def _other_channels(images: Sequence[str], found: Mapping[str, str]) -> set[str]:
    """Images that show what others show: nnU-Net's further channels, other modalities than those with labels."""
    there, others = {*images}, set[str]()
    modalities = {frozenset(_words(_stem(image))) & _MODALITY for image in found}
    is_nnunet = any(_stem(image).endswith(CHANNEL) and _key(image) != _key(label) for image, label in found.items())
    for image in there - found.keys():
        channel = _CHANNEL.fullmatch(_stem(image))
        first = image.replace(f"_{channel[2]}.nii", f"{CHANNEL}.nii") if channel else image
        own = frozenset(_words(_stem(image))) & _MODALITY
        is_other = own and own not in modalities and frozenset() not in modalities
        if is_other or (is_nnunet and first != image and first in there):
            others.add(image)
    return others


def _layout(cases: Pairs) -> str:
    places = [(PurePosixPath(image).parent, PurePosixPath(label).parent) for image, label in cases.items() if label]
    tops = sorted({place.parts[0] for pair in places for place in pair if place.parts})
    if all(_BIDS.fullmatch(_stem(image)) for image in cases):
        return "BIDS"
    if "imagesTr" in tops:
        channel = any(_stem(image).endswith(CHANNEL) for image in cases)
        return f"{'nnU-Net' if channel else 'MSD'} layout without dataset.json"
    if all(image != label for image, label in places):
        return f"images and labels in folders of their own ({listed(tops)})"
    return "a folder for each case" if len({*places}) == len(places) > 1 else "pairs by name"


def _cases(pairs: Pairs, reasons: Mapping[str, str]) -> tuple[FoundCase, ...]:
    """Cases with distinct names: the file's, less what all images have at the end; else with the folders' before it."""
    ends = {_stem(image).rpartition("_")[2] for image in pairs}
    end = next(iter(ends)) if len(ends) == 1 else ""
    end = f"_{end}" if end.lower() in _MODALITY | _IMAGE or f"_{end}" == CHANNEL else ""
    for name in (
        lambda path: _stem(path).removesuffix(end),
        lambda path: "_".join(_key(path)),
        lambda path: path.removesuffix(".gz").removesuffix(".nii"),
    ):
        names = {image: re.sub(r"[^\w.-]+", "_", name(image)).strip("_") for image in pairs}
        if len({*names.values()} - {""}) == len(names):
            break
    else:
        first = {name: image for image, name in reversed(names.items())}
        pair = (f"{first[name]} and {image}" for image, name in names.items() if first[name] != image)
        raise BadInput(f"{next(pair, 'scans without letters')} would be cases of one name; rename one or take it out")
    test = {image for image in pairs if {folder.lower() for folder in PurePosixPath(image).parent.parts} & _TEST}
    if all(image in test for image, label in pairs.items() if label):
        test = set()  # all labels are there: they are all that a network can learn from
    found = []
    for image, label in pairs.items():
        part: Part = "unlabelled" if label is None else "test" if image in test else "training"
        found.append(FoundCase(names[image], image, label, part, reasons.get(image, "no label found")))
    return tuple(sorted(found, key=lambda case: case.name))
