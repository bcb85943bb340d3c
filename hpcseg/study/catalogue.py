"""The datasets of a study, each opened and read once however many runs ask: cases, splits, digests, spacings.

Axes are z, y, x; spacings in mm.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hpcseg.config import Labels, RunConfig
from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE
from hpcseg.spec import CaseRef, Spacing, StartRef
from hpcseg.study.numbering import check_same_numbering
from hpcseg.volumes.datasets import Dataset, all_groups, case_groups, find_dataset, open_dataset
from hpcseg.volumes.digests import Digests, cache_folder, mark_of
from hpcseg.volumes.folds import Split
from hpcseg.volumes.spacing import plan_spacing
from hpcseg.volumes.splits import GivenSplits, read_splits

if TYPE_CHECKING:
    from hpcseg.training.model import TrainedModel
    from hpcseg.volumes.scan_grid import ScanGrid

Classes = tuple[tuple[int, ...], ...]
READERS = 16  # files that are opened at once


class TestSet(NamedTuple):
    """Scans with labels, which label values are of each class, and which one is to be ignored."""

    scans: tuple[CaseRef, ...] = ()
    classes: Classes = ()
    ignore: int | None = None


class Catalogue:
    """Answers what a run's data section means.

    Args:
        data: folder of the datasets.
        beside: folder of the sweep file, where `data.splits` may be, too.
        verify: whether every byte of the scans is read, whatever is known of their digests.
    """

    def __init__(self, data: Path, beside: Path | None = None, *, verify: bool = False) -> None:
        self._data, self._beside = data.resolve(), beside
        self._digests = Digests(cache_folder(), anew=verify)
        self.notes: list[str] = []  # on the datasets that were opened
        # Caches live and die with this catalogue: a later plan sees changed files.
        self.dataset = functools.cache(self._open)
        self.digest = functools.cache(self._digests.of_case)
        self.grid = functools.cache(self._read_grid)
        self.spacing = functools.cache(self._read_spacing)
        self._model = functools.cache(self._load_model)
        self._groups = functools.cache(self._read_groups)
        self._given = functools.cache(self._given_splits)
        self._splits = functools.cache(self._split)
        self._twins = functools.cache(self._twins_of)
        self._scans = functools.cache(self._scans_of)

    def main(self, config: RunConfig) -> Dataset:
        """The labelled dataset of a run.

        Raises:
            BadInput: `data.dataset` is not set, or there is no such dataset.
        """
        if not config.data.dataset:
            raise BadInput(
                "data.dataset is not set; name a folder below --data, in [run] or with --set data.dataset=NAME"
            )
        return self.dataset(config.data.dataset)

    def is_one(self, name: str, other: str) -> bool:
        """Whether two names are of one dataset: a folder may be reached by several."""
        return self.dataset(name).root.resolve() == self.dataset(other).root.resolve()

    def has_own_test(self, config: RunConfig) -> bool:
        """Whether the labelled scans in the dataset's own imagesTs are the test set."""
        return bool(config.data.test) and self.is_one(config.data.test, config.data.dataset)

    def split(self, config: RunConfig) -> Split:
        """Labelled, unlabelled and held-out cases of a run.

        Raises:
            BadInput: `data.splits` names no file, one with mistakes, or one without such a fold or so many cases.
        """
        data = config.data
        given = (data.dataset, data.groups, data.splits)
        return self._splits(*given, data.folds, config.fold, config.labelled, data.split_seed)

    def patients_apart(self, config: RunConfig, measured: Iterable[str], cases: Iterable[CaseRef]) -> tuple[str, ...]:
        """Names of the `cases` of a run's dataset, sorted, that are of none of the measured cases' groups."""
        groups = self._groups(config.data.dataset, config.data.groups)
        held = {groups[name] for name in measured}
        return tuple(sorted(case.name for case in cases if groups[case.name] not in held))

    def _require_other_patients(self, config: RunConfig, test: Iterable[CaseRef]) -> None:
        groups = self._groups(config.data.dataset, config.data.groups)
        case_of = {groups[case.name]: case.name for case in self.main(config).training}
        for case in test:
            if (other := case_of.get(groups[case.name])) is not None:
                raise BadInput(
                    f"data.test = {config.data.test!r}: {case.name} is of the same patient as {other}, which is "
                    "learned from (data.groups); take one of them out of the dataset"
                )

    def _require_other_scans(self, config: RunConfig, test: Iterable[CaseRef] = ()) -> None:
        """Refuse a case that is measured if its image is, to the byte, one that the run learns from, or chooses by."""
        split, data = self.split(config), config.data
        learned, copies = {*split.labelled, *split.unlabelled}, self._twins(data.dataset, "")
        chosen, others = learned | {*split.validation}, self._twins(data.dataset, data.test) if data.test else {}
        found = [(data.dataset, name, learned.intersection(copies.get(name, ()))) for name in split.validation]
        found += [(data.dataset, name, chosen.intersection(copies.get(name, ()))) for name in split.test]
        found += [(f"data.test = {data.test!r}", t.name, chosen.intersection(others.get(t.name, ()))) for t in test]
        for where, name, alike in found:
            if alike:
                one = f"{name} is the same scan as {min(alike)} of {data.dataset}, which is learned from"
                raise BadInput(f"{where}: {one}; take one of them out, or have both on one side (data.groups)")

    def labelled_test(self, name: str, test: str) -> tuple[CaseRef, ...]:
        """The labelled scans of the dataset `test`; of `name` itself those in its imagesTs."""
        dataset = self.dataset(test)
        cases = dataset.test if self.is_one(name, test) else dataset.training + dataset.test
        return tuple(case for case in cases if case.label is not None)

    def _twins_of(self, name: str, test: str) -> dict[str, list[str]]:
        """Labelled cases of `test`, or with "" training cases of `name` -> other training cases with the same image."""
        own: dict[str, list[str]] = {}
        for case, image in self._images(self.dataset(name).training).items():
            own.setdefault(image, []).append(case)
        if not test:
            return {case: alike for alike in own.values() for case in alike if len(alike) > 1}
        images = self._images(self.labelled_test(name, test))
        return {case: own[image] for case, image in images.items() if image in own}

    def unlike(self, measured: Iterable[CaseRef], cases: Iterable[CaseRef]) -> tuple[str, ...]:
        """Names of the cases whose image is, to the byte, none of the measured ones', sorted."""
        held, images = {*self._images(measured).values()}, self._images(cases)
        return tuple(sorted(name for name, image in images.items() if image not in held))

    def _images(self, cases: Iterable[CaseRef]) -> dict[str, str]:
        return {name: digest.partition("+")[0] for name, digest in self.digests(cases).items()}

    def digests(self, cases: Iterable[CaseRef]) -> dict[str, str]:
        """Digest of each case's files, by its name; many are read at once, for file systems that are slow to open one.

        Raises:
            BadInput: a file is missing or cannot be read.
        """
        return {name: digest for name, (digest, _) in self._both(cases).items()}

    def older_digests(self, cases: Iterable[CaseRef]) -> dict[str, str]:
        """What versions before 0.2 took for the digests of the same cases."""
        return {name: older for name, (_, older) in self._both(cases).items()}

    def marked(self, cases: Iterable[CaseRef]) -> tuple[CaseRef, ...]:
        """The same cases, with what stands for the content of their files."""
        return tuple(case.model_copy(update={"mark": mark_of(self.digest(case)[0])}) for case in cases)

    def _both(self, cases: Iterable[CaseRef]) -> dict[str, tuple[str, str]]:
        with ThreadPoolExecutor(READERS) as pool:
            found = {case.name: digests for case, digests in pool.map(lambda case: (case, self.digest(case)), cases)}
        self._digests.save()
        return found

    def training_scans(self, config: RunConfig) -> dict[str, CaseRef]:
        """The cases of a run's labelled dataset by name."""
        return self._scans(config.data.dataset)

    def pack_spacing(self, config: RunConfig) -> Spacing:
        """Spacing of a run's volumes: as configured, or from the headers of its labelled cases."""
        if config.preprocessing.spacing != "median":
            return plan_spacing(config.preprocessing, ())
        scans = self.training_scans(config)
        spacings = [self.spacing(scans[name].image) for name in self.split(config).labelled]
        return plan_spacing(config.preprocessing, spacings)

    def test_set(self, config: RunConfig) -> TestSet:
        """The labelled scans of the test set and its label values; nothing where there is none.

        It is the dataset `data.test`, else what `data.splits` sets aside.

        Raises:
            BadInput: the test set holds no labelled scan, none of a class's label values, numbers them otherwise, or is
                of patients whom the run learns from.
        """
        name = config.data.test
        if not name:
            self._require_other_scans(config)
            scans = self.training_scans(config)
            aside = tuple(scans[case] for case in self.split(config).test)
            return TestSet(aside, self.classes(config), self.main(config).ignore) if aside else TestSet()
        dataset = self.dataset(name)
        labelled = self.labelled_test(config.data.dataset, name)
        if not labelled:
            raise BadInput(
                f"data.test = {name!r}: {dataset.root} has no labelled test scan; "
                "put labels into labelsTs or set data.test = ''"
            )
        if self.has_own_test(config):
            self._require_other_patients(config, labelled)
        self._require_other_scans(config, labelled)
        classes = classes_of(config.data.test_foreground) or classes_of(config.data.foreground)
        if len(classes) != len(classes_of(config.data.foreground)):
            raise BadInput("data.test_foreground must list as many classes as data.foreground")
        for values in classes:
            if dataset.ignore in values:
                raise _refused_ignore("data.test_foreground", name, values)
            if not set(values) & set(dataset.labels):
                raise BadInput(
                    f"data.test = {name!r}: none of the labels {list(values)} is in "
                    f"{dataset.root / 'dataset.json'} (it lists {_listed(dataset.labels)}); set data.test_foreground"
                )
        if not config.data.test_foreground:
            found = check_same_numbering(self.main(config), dataset, classes)
            self.notes += [note for note in found if note not in self.notes]
        return TestSet(labelled, classes, dataset.ignore)

    def classes(self, config: RunConfig) -> Classes:
        """Label values of each class.

        Raises:
            BadInput: `data.foreground` names a value that is not in `dataset.json`.
        """
        classes = classes_of(config.data.foreground)
        labels = self.main(config).labels
        for value in (value for values in classes for value in values):
            if value == self.main(config).ignore:
                raise _refused_ignore("data.foreground", config.data.dataset, value)
            if value not in labels or value == 0:
                raise BadInput(
                    f"data.foreground: {value} is no foreground label of {config.data.dataset} "
                    f"({self.main(config).root / 'dataset.json'} lists {_listed(labels)}); correct it"
                )
        return classes

    def start(self, config: RunConfig) -> StartRef | None:
        """The model that a run begins with, see `training.start`.

        Raises:
            BadInput: there is none, it is damaged, or its network is not the run's.
        """
        if not config.training.start:
            return None
        from hpcseg.training.pretrained import start_of

        path, model = self._model(config.training.start)
        return start_of(path, model, config, max(len(self.classes(config)), 1))

    def _load_model(self, start: str) -> tuple[Path, TrainedModel]:
        from hpcseg.training.model import TrainedModel  # imports torch

        given = Path(start).expanduser()
        places = [place / given for place in (self._beside, Path.cwd()) if place is not None]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            looked = " or ".join(dict.fromkeys(map(str, places)))
            raise BadInput(f"training.start = {start!r}: there is no {looked}; give the model.pt of a run that is done")
        file = (found / MODEL_FILE if found.is_dir() else found).resolve()
        return file, TrainedModel.load(file)

    def _open(self, name: str) -> Dataset:
        dataset = open_dataset(find_dataset(name, self._data))
        self.notes += dataset.notes
        return dataset

    def _read_grid(self, image: Path) -> ScanGrid:
        from hpcseg.volumes.scans import read_grid  # imports nibabel, which takes a while

        return read_grid(image)

    def _read_spacing(self, image: Path) -> Spacing:
        z, y, x = (float(value) for value in self.grid(image).spacing_zyx)
        return z, y, x

    def _scans_of(self, name: str) -> dict[str, CaseRef]:
        return {case.name: case for case in self.dataset(name).training}

    def _read_groups(self, name: str, how: str) -> dict[str, str]:
        return all_groups(self.dataset(name), how)

    def _given_splits(self, name: str, how: str, splits: str) -> GivenSplits:
        dataset = self.dataset(name)
        groups = case_groups(dataset, how)
        if not splits:
            return GivenSplits(dataset.root, groups=groups)
        places = [dataset.root, *([] if self._beside is None else [self._beside])]
        found = next((place / splits for place in places if (place / splits).is_file()), None)
        if found is None:
            raise BadInput(f"data.splits = {splits!r}: no such file in {' or in '.join(map(str, places))}; correct it")
        return read_splits(found, groups)

    def _split(
        self, name: str, how: str, splits: str, folds: int, fold: int, labelled: int | Literal["all"], seed: int
    ) -> Split:
        return self._given(name, how, splits).split(fold=fold, labelled=labelled, folds=folds, seed=seed)


def _refused_ignore(key: str, dataset: str, value: object) -> BadInput:
    return BadInput(f"{key}: {value} has the label 'ignore' of {dataset}, which no class can have; leave it out")


def classes_of(foreground: Labels) -> Classes:
    """Label values of each class: a flat list is one class, () every value but 0."""
    flat = tuple(value for value in foreground if not isinstance(value, tuple))
    return (flat,) if flat else tuple(value for value in foreground if isinstance(value, tuple))


def _listed(labels: dict[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))
