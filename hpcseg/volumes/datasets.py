"""Datasets on disk: the layout of the Medical Segmentation Decathlon (MSD) and nnU-Net's raw layout.

MSD: `dataset.json` lists images and labels ("training", "test", "modality"), and may name each case ("name") where
names of files do not. nnU-Net: `dataset.json` has "channel_names" and "file_ending"; images are
`imagesTr/CASE_0000.nii.gz`, labels `labelsTr/CASE.nii.gz`. nnU-Net's first layout lists images as MSD does, and leaves
the channel out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpcseg.errors import BadInput
from hpcseg.files import is_file, read_json
from hpcseg.spec import CaseRef
from hpcseg.text import listed, nearest, word
from hpcseg.volumes.layouts import CHANNEL, ENDINGS, layout_notes, stem, why_empty, with_channel

Progress = Callable[[int, int, str], None]  # cases or parts done, in all, name
DESCRIPTION = "dataset.json"
PHANTOMS = "Phantoms"  # what sweep files of hpcseg call the dataset that `hpcseg phantom` makes
_NAME = re.compile(r"\w[\w.-]*")
_TIMES = "frame|phase|time|timepoint|tp|visit|ses|session|followup|fu|week|month|year|t"
_VISIT = re.compile(
    rf"[_.\s-](?:(?:{_TIMES})[_-]?\d+|baseline|followup|pre|post|ed|es|left|right|lh|rh|l|r)(?=[_.\s-]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Dataset:
    """A dataset as its `dataset.json` describes it.

    Attributes:
        root: its folder.
        name: of the dataset.
        layout: "MSD" or "nnU-Net".
        modality: of the one channel ("CT", "MRI", ...).
        labels: label value -> name, background included.
        training: labelled cases, sorted by name.
        test: cases of imagesTs, sorted by name; their label is labelsTs/<the image's name> where there is one, or as
            listed.
        notes: what else its files and `dataset.json` say that does not go together.
    """

    root: Path
    name: str
    layout: str
    modality: str
    labels: dict[int, str]
    training: tuple[CaseRef, ...]
    test: tuple[CaseRef, ...]
    notes: tuple[str, ...] = ()

    @property
    def ignore(self) -> int | None:
        """Value of nnU-Net's reserved label "ignore": voxels that nobody has annotated; None where there is none."""
        return next((value for value, name in self.labels.items() if value and name.strip().lower() == "ignore"), None)

    @property
    def is_ct(self) -> bool:
        """Whether intensities are Hounsfield units."""
        return self.modality.strip().upper() == "CT"


def open_dataset(root: Path, *, files_must_exist: bool = True) -> Dataset:
    """Read a dataset's description and check that its files are there.

    Raises:
        BadInput: no `dataset.json`, or malformed; more than one channel; two cases of one name; a file missing.
    """
    path = root / DESCRIPTION
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file; give a folder in MSD or nnU-Net layout, or look with hpcseg init {word(root)}"
        )
    description = read_json(path)
    if not isinstance(description, dict):
        raise BadInput(f"{path}: must hold an object ({{...}}), as in MSD or nnU-Net datasets")
    is_nnunet = "channel_names" in description
    modality = _modality(path, description, "channel_names" if is_nnunet else "modality")
    training, test = _nnunet_cases(root, description) if is_nnunet else _msd_cases(root, description)
    dataset = Dataset(
        root=root,
        name=str(description.get("name") or root.resolve().name),
        layout="nnU-Net" if is_nnunet else "MSD",
        modality=modality,
        labels=_labels(path, description, is_nnunet=is_nnunet),
        training=tuple(sorted(training, key=lambda case: case.name)),
        test=tuple(sorted(test, key=lambda case: case.name)),
        notes=tuple(layout_notes(root, description, [case.name for case in training], is_nnunet=is_nnunet)),
    )
    _require_distinct_names(dataset)
    if not training and not test:
        raise BadInput(f"{root}: no case found: {why_empty(root, description, is_nnunet=is_nnunet)}")
    if files_must_exist:
        for case in (*dataset.training, *dataset.test):
            _require_files(path, case)
    return dataset


def datasets_in(folder: Path) -> list[Path]:
    """Folders of the datasets that lie in a folder, sorted."""
    return sorted(path.parent for path in folder.glob(f"*/{DESCRIPTION}"))


def find_dataset(name: str, data: Path) -> Path:
    """Find the folder of the dataset `name`: `data/name`, or `data` itself if it is called so.

    Raises:
        BadInput: there is none; the message lists what is there.
    """
    made = f"; hpcseg phantom {word(data / name)} makes it" if name == PHANTOMS else ""
    if name and is_file(data / name / DESCRIPTION):
        return data / name
    if name and is_file(data / DESCRIPTION) and data.resolve().name == name:
        return data
    if not data.is_dir():
        raise BadInput(f"{data}: no such folder; give the folder of the datasets with --data{made}")
    there = [folder.name for folder in datasets_in(data)]
    if is_file(data / DESCRIPTION):
        raise BadInput(
            f"{data}: is the dataset {data.resolve().name!r}, not {name!r}; set data.dataset to its folder's name "
            f"(--set data.dataset={data.resolve().name})"
        )
    listing = f"there are: {', '.join(there)}" if there else f"no folder there holds a {DESCRIPTION}"
    raise BadInput(f"{data}: no dataset {name!r} ({listing}); correct --data or --set data.dataset=NAME{made}")


def case_groups(dataset: Dataset, how: str) -> dict[str, str]:
    """Name the group of each training case; a split keeps the cases of a group (one patient) together.

    Args, Raises: as `all_groups`.
    """
    groups = all_groups(dataset, how)
    return {case.name: groups[case.name] for case in dataset.training}


def all_groups(dataset: Dataset, how: str) -> dict[str, str]:
    """Name the group of each case, those of imagesTs too: of a patient who is measured no other scan is learned from.

    Args:
        dataset: whose cases are grouped.
        how: "": every case for itself; "pairs": cases with trailing number 2k − 1 and 2k; "names": see `patient_of`;
            otherwise a JSON file in the dataset with "patient_groups" (group -> cases); cases that it does not list
            stay by themselves.

    Raises:
        BadInput: a training case has no trailing number; the JSON file is missing, malformed, lists a case twice or one
            that is not there.
    """
    names = [case.name for case in (*dataset.training, *dataset.test)]
    if how == "":
        return {name: name for name in names}
    if how == "pairs":
        pairs = {name: _pair(name) for name in names}
        if alone := [case.name for case in dataset.training if pairs[case.name] is None]:
            raise BadInput(f'{dataset.root}: case {alone[0]!r} has no trailing number; data.groups = "pairs" needs one')
        return {name: pair or name for name, pair in pairs.items()}
    if how == "names":
        return {name: patient_of(name) for name in names}
    path = dataset.root / how
    if not is_file(path):
        raise BadInput(f"data.groups = {how!r}: no such file {path}, and no rule{nearest(how, ('names', 'pairs'))}")
    content = read_json(path)
    patients = content.get("patient_groups") if isinstance(content, dict) else None
    if not isinstance(patients, dict) or not all(isinstance(cases, list) for cases in patients.values()):
        raise BadInput(f'{path}: needs "patient_groups": {{"group": ["case", ...]}}; correct it or data.groups')
    group_of: dict[str, str] = {}
    for group, cases in patients.items():
        for name in cases:
            if not isinstance(name, str) or name not in names:
                raise BadInput(f"{path}: patient_groups lists {name!r}, which is no case of the dataset; correct it")
            if name in group_of:
                raise BadInput(f"{path}: patient_groups lists {name!r} twice; leave it in one group")
            group_of[name] = f"group {group}"
    return {name: group_of.get(name, name) for name in names}


def patient_of(name: str) -> str:
    """What a case's name says of its patient: BIDS's subject, else the name without words of a time or a side.

    >>> [patient_of(name) for name in ("sub-01_ses-2_run-1", "patient007_frame12", "knee-9-left", "baseline_3")]
    ['sub-01', 'patient007', 'knee-9', 'baseline_3']
    """
    subject = re.match(r"sub-[^_.\s]+", name)
    return subject.group() if subject else _VISIT.sub("", name)


def scan_name(path: Path) -> str:
    """Name of a scan without its NIfTI ending."""
    return stem(path)


def _modality(path: Path, description: Mapping[str, Any], key: str) -> str:
    channels = description.get(key)
    if not isinstance(channels, dict) or not channels:
        raise BadInput(f'{path}: {key} is missing; add {key} = {{"0": "CT"}} or {{"0": "MRI"}}')
    if len(channels) > 1:
        raise BadInput(f"{path}: {key} lists {len(channels)} channels; only single-channel datasets can be used")
    return str(next(iter(channels.values())))


def _labels(path: Path, description: Mapping[str, Any], *, is_nnunet: bool) -> dict[int, str]:
    """MSD has value -> name, nnU-Net name -> value; a name may be a number (of a tooth)."""
    labels = description.get("labels", {})
    regions = [name for name, value in labels.items() if isinstance(value, list)] if isinstance(labels, dict) else []
    if regions:
        raise BadInput(
            f"{path}: labels {listed(regions)} are regions of several values, as nnU-Net has them; give each value one "
            "name there, and merge values by data.foreground: [1, 2] is one class"
        )
    try:
        pairs = [
            (int(a), str(b)) if str(a).isdigit() and not (is_nnunet and isinstance(b, int)) else (int(b), str(a))
            for a, b in labels.items()
        ]
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise BadInput(f'{path}: labels must pair one integer with one name ({{"1": "liver"}}); correct it') from None
    return dict(sorted(pairs))


def _msd_cases(root: Path, description: Mapping[str, Any]) -> tuple[list[CaseRef], list[CaseRef]]:
    path = root / DESCRIPTION
    training, test = [], []
    for item in _listed(path, description, "training"):
        if not (isinstance(item, dict) and isinstance(item.get("image"), str) and isinstance(item.get("label"), str)):
            raise BadInput(f'{path}: training must list {{"image": ..., "label": ...}}, not {item!r}; correct it')
        training.append(_msd_case(path, item))
    for item in _listed(path, description, "test"):
        entry = item if isinstance(item, dict) else {"image": item}
        if not isinstance(entry.get("image"), str) or not isinstance(entry.get("label", ""), str):
            raise BadInput(f"{path}: test must list paths of images, not {item!r}; correct it")
        beside = Path("labelsTs") / Path(entry["image"]).name
        test.append(_msd_case(path, ({"label": str(beside)} if is_file(root / beside) else {}) | entry))
    first = training[0].image if training else None
    if first is not None and not is_file(first) and is_file(with_channel(first)):  # nnU-Net's first layout
        training, test = ([_with_channel(case) for case in cases] for cases in (training, test))
    return training, test


def _msd_case(path: Path, item: Mapping[str, Any]) -> CaseRef:
    """A case of a description, by its own name or by its image's."""
    image, name = path.parent / item["image"], item.get("name")
    if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name)):
        raise BadInput(f"{path}: name = {name!r} must be of letters, digits, - _ and .; correct it")
    label = path.parent / item["label"] if "label" in item else None
    try:
        return CaseRef(name=scan_name(image) if name is None else name, image=image, label=label)
    except ValidationError:
        raise BadInput(f"{path}: {str(image)!r} cannot be an image's path; correct it") from None


def _with_channel(case: CaseRef) -> CaseRef:
    return case.model_copy(update={"image": with_channel(case.image)})


def _listed(path: Path, description: Mapping[str, Any], key: str) -> list[Any]:
    items = description.get(key, [])
    if not isinstance(items, list):
        raise BadInput(f"{path}: {key} must be a list; correct it")
    return items


def _nnunet_cases(root: Path, description: Mapping[str, Any]) -> tuple[list[CaseRef], list[CaseRef]]:
    ending = description.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise BadInput(f"{root / DESCRIPTION}: file_ending {ending!r} cannot be read; convert the dataset to .nii.gz")

    def cases(part: str) -> Iterator[CaseRef]:
        channel = f"{CHANNEL}{ending}"
        for image in (root / f"images{part}").glob(f"[!.]*{channel}"):
            name = image.name.removesuffix(channel)
            label = root / f"labels{part}" / f"{name}{ending}"
            yield CaseRef(name=name, image=image, label=label if part == "Tr" or label.is_file() else None)

    return list(cases("Tr")), list(cases("Ts"))


def _require_distinct_names(dataset: Dataset) -> None:
    images: dict[str, Path] = {}
    for case in (*dataset.training, *dataset.test):
        if case.name in images:
            raise BadInput(
                f"{case.image}: {images[case.name]} has the same case name {case.name!r}; rename one of them"
            )
        images[case.name] = case.image


def _require_files(path: Path, case: CaseRef) -> None:
    for kind, file in (("image", case.image), ("label", case.label)):
        if file is not None and not is_file(file):
            alike = _in_other_case(file)
            there = "" if alike is None else f" (there is {alike}: upper and lower case differ)"
            raise BadInput(f"{kind} missing: {file}{there}; add the file or remove the case from {path}")


def _in_other_case(path: Path) -> Path | None:
    """What is there, and is called as `path` but for upper and lower case."""
    with contextlib.suppress(OSError):  # a name of a thousand characters, a folder that nobody may read
        if path.exists() or path.parent == path:
            return path
        folder = _in_other_case(path.parent)
        there = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
        return next((one for one in there if one.name.lower() == path.name.lower()), None)
    return None


def _pair(name: str) -> str | None:
    number = re.search(r"\d+$", name)
    return None if number is None else f"pair {name[: number.start()]}{(int(number.group()) + 1) // 2}"
