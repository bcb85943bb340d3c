"""From a run's configuration to its stages: packs, pretrainings where the strategy needs them, and the training run.

What is the same for several runs is worked out once: each shared ancestor, and whatever depends on the data alone. A
stage's specification is written only when somebody asks for it; a plan of many runs seldom needs many of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE, STORE_FILE
from hpcseg.spec import CaseRef, PackSpec, PretrainSpec, SourceRef, Spacing, TrainSpec
from hpcseg.study.catalogue import Catalogue, resolve_padding, resolve_pyramid_clip
from hpcseg.study.identity import Canonical, canonical, is_shared, pack_id, pretrain_id, train_id
from hpcseg.training.strategy import Needs, strategy_of
from hpcseg.volumes.chunks import require_codec
from hpcseg.volumes.datasets import Dataset

Spec = PackSpec | PretrainSpec | TrainSpec


@dataclass(frozen=True)
class Work:
    """One stage of one run or of several.

    Attributes:
        id: its name.
        stage: pack, pretrain or train.
        needs: ids of what must be done before.
        config: of the first run that has it; None for a pack.
        level: that a pretraining is of; else None.
        write: makes its specification.
    """

    id: str
    stage: str
    needs: tuple[str, ...]
    config: RunConfig | None
    level: int | None
    write: Callable[[], Spec]

    @functools.cached_property
    def spec(self) -> Spec:
        """What its job has to do."""
        return self.write()


@dataclass(frozen=True)
class _Material:
    """What the data of a run resolve to, for all runs that have the same data, fold, subset and needs."""

    config: RunConfig  # the first of them
    needs: Needs
    pack: PackSpec
    labelled: SourceRef
    validation: SourceRef
    seen: tuple[SourceRef, ...]  # by autoencoders, whether they are trained before or beside
    validation_scans: tuple[CaseRef, ...]
    test_scans: tuple[CaseRef, ...]
    test_classes: tuple[tuple[int, ...], ...]
    packs: tuple[str, ...]  # ids of all that is read
    identity: Mapping[str, Canonical]


@dataclass
class Resolver:
    """Turns configurations into stages; `work` has them by id, ancestors before what needs them."""

    catalogue: Catalogue
    work: dict[str, Work] = field(default_factory=dict)
    _packs: dict[tuple[Any, ...], PackSpec] = field(default_factory=dict)
    _sources: dict[tuple[str, tuple[str, ...]], SourceRef] = field(default_factory=dict)
    _materials: dict[tuple[Any, ...], _Material] = field(default_factory=dict)
    # The configurations are kept beside, or other sections could get the ids of theirs.
    _pretrainings: dict[tuple[Any, ...], tuple[RunConfig, str]] = field(default_factory=dict)
    _tests: dict[int, tuple[RunConfig, tuple[CaseRef, ...], tuple[tuple[int, ...], ...], Canonical]] = field(
        default_factory=dict
    )

    def train(self, config: RunConfig) -> str:
        """Make the training run of `config` and all that it needs; returns its id.

        Raises:
            BadInput: a dataset or a file of it is missing, a split is impossible, a label does not exist.
        """
        material = self._material(config)
        pretrained = tuple([self._pretrain(config, level, material) for level in material.needs.autoencoders])
        run_id = train_id(config, {**material.identity, "pretrained": pretrained})
        if run_id not in self.work:
            packs = material.packs if material.needs.unlabelled else (material.pack.id,)
            write = functools.partial(_train_spec, run_id, config, material, pretrained)
            self.work[run_id] = Work(run_id, "train", (*packs, *pretrained), config, None, write)
        return run_id

    def _pretrain(self, config: RunConfig, level: int, material: _Material) -> str:
        sections = (config.network, config.patches, config.augmentation, config.preprocessing, config.training)
        own = material.seen if is_shared(config) else (*material.seen, material.labelled)
        place = () if is_shared(config) else (config.labelled, config.fold)
        shown = (*sections, config.autoencoder, *own)
        key = (level, config.seed, *place, *[id(one) for one in shown])
        if key not in self._pretrainings:
            run_id = pretrain_id(config, level, material.labelled, material.seen)
            self._pretrainings[key] = (config, run_id)
            if run_id not in self.work:
                write = functools.partial(_pretrain_spec, run_id, config, level, material)
                self.work[run_id] = Work(run_id, "pretrain", material.packs, config, level, write)
        return self._pretrainings[key][1]

    def _material(self, config: RunConfig) -> _Material:
        needs = strategy_of(config).needs(config)
        shown = id(config.autoencoder) if needs.sees_unlabelled else None
        key = (id(config.data), id(config.preprocessing), config.fold, config.labelled, needs, shown)
        if key not in self._materials:
            self._materials[key] = self._new_material(config, needs)
        return self._materials[key]

    def _new_material(self, config: RunConfig, needs: Needs) -> _Material:
        dataset, split = self.catalogue.main(config), self.catalogue.split(config)
        pack = self._main_pack(config, dataset)
        seen = self._autoencoder_sources(config, dataset, pack) if needs.sees_unlabelled else ()
        test, test_classes, test_json = self._test(config)
        scans = self.catalogue.training_scans(config)
        joint = seen if needs.unlabelled else ()
        return _Material(
            config=config,
            needs=needs,
            pack=pack,
            labelled=self._source(pack, split.labelled),
            validation=self._source(pack, split.validation),
            seen=seen,
            validation_scans=tuple(scans[name] for name in split.validation),
            test_scans=test,
            test_classes=test_classes,
            packs=tuple(dict.fromkeys((pack.id, *(source.store.parent.name for source in seen)))),
            identity={
                "pack": canonical(pack.id),
                "labelled": canonical(split.labelled),
                "validation": canonical(split.validation),
                "autoencoder_sources": canonical([[source.store.as_posix(), source.cases] for source in joint]),
                "test": test_json,
                "test_classes": canonical(test_classes),
            },
        )

    def _test(self, config: RunConfig) -> tuple[tuple[CaseRef, ...], tuple[tuple[int, ...], ...], Canonical]:
        """The scans of the test set, its classes, and what of them is part of a run's identity."""
        key = id(config.data)
        if key not in self._tests:
            scans, classes = self.catalogue.test_set(config)
            digests = self.catalogue.digests(scans)
            shown = canonical([[case.name, digests[case.name]] for case in scans])
            self._tests[key] = (config, scans, classes, shown)
        return self._tests[key][1:]

    def _autoencoder_sources(self, config: RunConfig, dataset: Dataset, pack: PackSpec) -> tuple[SourceRef, ...]:
        """Every volume that the autoencoders see: training cases, and by configuration the held-out fold, imagesTs
        and supplementary datasets. Cases are sorted, so that all subsets of a fold show the same."""
        split, spacing = self.catalogue.split(config), pack.spacing_zyx
        own = split.labelled + split.unlabelled + (split.validation if config.autoencoder.with_validation else ())
        sources = [self._source(pack, tuple(sorted(own)))]
        if config.data.unlabelled_ts:
            if not dataset.test:
                raise BadInput(f"data.unlabelled_ts = true: {dataset.root} has no scans in imagesTs; set it to false")
            sources.append(self._image_pack(config, config.data.dataset, "-imagesTs", dataset.test, spacing))
        if config.autoencoder.with_supplementary:
            if not config.data.supplementary:
                raise BadInput("autoencoder.with_supplementary = true, but data.supplementary lists no dataset")
            for name in config.data.supplementary:
                other = self.catalogue.dataset(name)
                sources.append(self._image_pack(config, name, "", other.training + other.test, spacing))
        return tuple(sources)

    def _main_pack(self, config: RunConfig, dataset: Dataset) -> PackSpec:
        """The pack of all labelled cases, which serves every fold and subset with the same spacing."""
        spacing, classes = self.catalogue.pack_spacing(config), self.catalogue.classes(config)
        return self._pack(config, config.data.dataset, dataset, lambda: dataset.training, spacing, classes)

    def _image_pack(
        self, config: RunConfig, name: str, part: str, cases: tuple[CaseRef, ...], spacing: Spacing
    ) -> SourceRef:
        """Cases of a pack without labels."""
        dataset = self.catalogue.dataset(name)
        pack = self._pack(config, f"{name}{part}", dataset, lambda: _unlabelled(cases), spacing, ())
        return self._source(pack, tuple(sorted([case.name for case in cases])))

    def _pack(
        self,
        config: RunConfig,
        name: str,
        dataset: Dataset,
        cases: Callable[[], tuple[CaseRef, ...]],
        spacing: Spacing,
        classes: tuple[tuple[int, ...], ...],
    ) -> PackSpec:
        padding = resolve_padding(config.preprocessing, dataset)
        clip = resolve_pyramid_clip(config.preprocessing, dataset)
        key = (name, spacing, classes, padding, clip)
        if key not in self._packs:
            require_codec(config.preprocessing.codec)
            spec = PackSpec(
                id="",
                dataset=name,
                cases=cases(),
                spacing_zyx=spacing,
                classes=classes,
                padding=padding,
                pyramid_clip=clip,
                codec=config.preprocessing.codec,
            )
            self._packs[key] = spec.model_copy(update={"id": pack_id(spec, self.catalogue.digests(spec.cases))})
        spec = self._packs[key]
        if spec.id not in self.work:
            self.work[spec.id] = Work(spec.id, "pack", (), None, None, lambda: spec)
        return spec

    def _source(self, pack: PackSpec, cases: tuple[str, ...]) -> SourceRef:
        """Cases of a pack; the same object for the same cases."""
        key = (pack.id, cases)
        if key not in self._sources:
            self._sources[key] = SourceRef(store=Path("pack") / pack.id / STORE_FILE, cases=cases)
        return self._sources[key]


def _unlabelled(cases: tuple[CaseRef, ...]) -> tuple[CaseRef, ...]:
    return tuple(CaseRef(name=case.name, image=case.image) for case in cases)


def _pretrain_spec(run_id: str, config: RunConfig, level: int, material: _Material) -> PretrainSpec:
    return PretrainSpec(id=run_id, config=config, level=level, statistics=material.labelled, sources=material.seen)


def _train_spec(run_id: str, config: RunConfig, material: _Material, pretrained: tuple[str, ...]) -> TrainSpec:
    pack = material.pack
    return TrainSpec(
        id=run_id,
        config=config,
        labelled=material.labelled,
        validation=material.validation,
        autoencoder_sources=material.seen if material.needs.unlabelled else (),
        pretrained=tuple(Path("pretrain") / name / MODEL_FILE for name in pretrained),
        spacing_zyx=pack.spacing_zyx,
        classes=pack.classes,
        padding=pack.padding,
        pyramid_clip=pack.pyramid_clip,
        validation_scans=material.validation_scans,
        test_scans=material.test_scans,
        test_classes=material.test_classes,
    )
