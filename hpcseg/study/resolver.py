"""From a run's configuration to its stages: packs, pretrainings where the strategy needs them, and the training run.

What is the same for several runs is worked out once: each shared ancestor, and whatever depends on the data alone. A
stage's specification is written only when somebody asks for it; a plan of many runs seldom needs many of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE, STORE_FILE
from hpcseg.spec import AnySpec, CaseRef, LabelSpec, PackSpec, PretrainSpec, SourceRef, Spacing, StartRef, TrainSpec
from hpcseg.study.catalogue import Catalogue, Classes, TestSet
from hpcseg.study.earlier import EarlierRuns
from hpcseg.study.identity import Canonical, canonical, is_shared, label_id, pack_id, pretrain_id, train_id
from hpcseg.study.packs import pack_spec
from hpcseg.training.strategy import Needs, strategy_of
from hpcseg.volumes.chunks import require_codec
from hpcseg.volumes.datasets import Dataset

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Stage:
    """One stage of one run or of several.

    Attributes:
        id: its name.
        stage: one of `hpcseg.paths.STAGES`.
        needs: ids of what must be done before.
        config: of the first run that has it; None for what does not train.
        level: that a pretraining is of; else None.
        write: makes its specification.
    """

    id: str
    stage: str
    needs: tuple[str, ...]
    config: RunConfig | None
    level: int | None
    write: Callable[[], AnySpec]

    @functools.cached_property
    def spec(self) -> AnySpec:
        """What its job has to do; made when it is asked for."""
        return self.write()


@dataclass(frozen=True)
class _Material:
    """What the data of a run resolve to, for all runs that have the same data, fold, subset and needs.

    Attributes:
        needs: of the strategy.
        labelled: cases that the run may learn from.
        seen: without labels, before or while the network is trained.
        packs: ids of all that `seen` and the labelled cases are read from, the latter's first.
        fields: of the specification of the training run.
        identity: what of all this is part of the run's identity.
        older_test: the test set's part of it as versions before 0.2 had it; None where that is the same.
    """

    needs: Needs
    labelled: SourceRef
    seen: tuple[SourceRef, ...]
    packs: tuple[str, ...]
    fields: Mapping[str, Any]
    identity: Mapping[str, Canonical]
    older_test: Canonical | None


@dataclass
class Resolver:
    """Turns configurations into stages; `stages` has them by id, ancestors before what needs them.

    Args:
        catalogue: of the datasets.
        earlier: what versions before 0.2 made there.
    """

    catalogue: Catalogue
    earlier: EarlierRuns
    stages: dict[str, Stage] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], tuple[Any, RunConfig | None]] = field(default_factory=dict)

    def train(self, config: RunConfig) -> str:
        """Make the training run of `config` and all that it needs; returns its id.

        Raises:
            BadInput: a dataset or a file of it is missing, a split is impossible, a label does not exist.
        """
        strategy = strategy_of(config)
        needs, parents = strategy.needs(config), strategy.parents(config)
        shown = id(config.autoencoder) if needs.sees_unlabelled else None
        key = ("material", id(config.data), id(config.preprocessing), config.fold, config.labelled, needs, shown)
        material = self._once(key, lambda: self._material(config, needs), config)
        start = self.catalogue.start(config)
        pretrained = tuple([self._pretrain(config, level, material, start) for level in needs.levels])
        before: dict[str, Path] = {name: Path("pretrain") / name / MODEL_FILE for name in pretrained}
        identity: dict[str, Any] = {**material.identity, "pretrained": pretrained}
        identity |= {} if start is None else {"start": start.identity}
        pseudo: dict[str, SourceRef] = {}
        if parents:
            teachers = {name: Path("train") / name / MODEL_FILE for name in map(self.train, parents)}
            before |= teachers
            label = functools.partial(self._label, parents[0], teachers, confidence=strategy.confidence(config))
            pseudo = dict(map(label, material.seen))
            identity |= {"parent": next(iter(teachers)), "pseudo_labelled": tuple(pseudo)}
        run_id = train_id(config, identity)
        if material.older_test is not None:
            older = train_id(config, identity | {"test": material.older_test})
            run_id = older if self.earlier.measured(older, material.fields["test_scans"]) else run_id
        if run_id not in self.stages:
            made = functools.partial(TrainSpec, pseudo_labelled=tuple(pseudo.values()), start=start, **material.fields)
            write = functools.partial(made, id=run_id, config=config, pretrained=tuple(before.values()))
            packs = material.packs if needs.unlabelled or needs.pseudo_labels else material.packs[:1]
            self.stages[run_id] = Stage(run_id, "train", (*packs, *before, *pseudo), config, None, write)
        return run_id

    def _label(
        self, config: RunConfig, models: Mapping[str, Path], source: SourceRef, confidence: float
    ) -> tuple[str, SourceRef]:
        """The labelling of some cases by networks, by run, the first that of `config`: its id, and what it leaves."""
        run_id = label_id(models, source, confidence)
        if run_id not in self.stages:
            model, *others = models.values()
            own = functools.partial(LabelSpec, id=run_id, config=config, model=model, others=tuple(others))
            write = functools.partial(own, source=source, confidence=confidence)
            needs = source.store.parent.name, *models
            self.stages[run_id] = Stage(run_id, "label", needs, None, None, write)
        return run_id, source.model_copy(update={"labels": Path("label") / run_id / STORE_FILE})

    def _once(self, key: tuple[Any, ...], make: Callable[[], _Made], config: RunConfig | None = None) -> _Made:
        """What `make` gives, made once for a key.

        A key with ids of sections comes with their configuration, which is kept: other sections could get those ids.
        """
        if key not in self._known:
            self._known[key] = make(), config
        found: _Made = self._known[key][0]
        return found

    def _pretrain(self, config: RunConfig, level: int | None, material: _Material, start: StartRef | None) -> str:
        """The pretraining of one level, or the strategy's own; returns its id. It begins with that of a model which it
        has, too."""
        if start is not None:
            layers = "encoders" if level is not None or start.layers == "encoders" else "features"
            start = start.model_copy(update={"layers": layers})
        sections = (config.network, config.patches, config.augmentation, config.preprocessing, config.training)
        own = material.seen if is_shared(config) else (*material.seen, material.labelled)
        place = () if is_shared(config) else (config.labelled, config.fold)
        strategy = () if level is not None else (config.strategy, id(strategy_of(config).section(config)))
        ids = [*strategy, *(id(one) for one in (*sections, config.autoencoder, *own))]

        def make() -> str:
            run_id = pretrain_id(config, level, material.labelled, material.seen, start)
            own = functools.partial(PretrainSpec, id=run_id, config=config, level=level, start=start)
            write = functools.partial(own, statistics=material.labelled, sources=material.seen)
            self.stages.setdefault(run_id, Stage(run_id, "pretrain", material.packs, config, level, write))
            return run_id

        return self._once(("pretrain", level, config.seed, *place, *ids), make, config)

    def _material(self, config: RunConfig, needs: Needs) -> _Material:
        dataset, split = self.catalogue.main(config), self.catalogue.split(config)
        # One pack of all labelled cases serves every fold and subset with the same spacing.
        spacing, classes = self.catalogue.pack_spacing(config), self.catalogue.classes(config)
        pack = self._pack(config, config.data.dataset, dataset, spacing, classes)
        seen = self._seen(config, dataset, pack, needs) if needs.sees_unlabelled else ()
        joint = seen if needs.unlabelled else ()
        (test, test_classes, test_ignore), test_json, older_test = self._once(
            ("test", id(config.data), config.fold), lambda: self._test(config), config
        )
        scans = self._once(("scans", pack.id), lambda: {case.name: case for case in pack.cases})
        labelled = self._source(pack, split.labelled)
        return _Material(
            needs=needs,
            labelled=labelled,
            seen=seen,
            packs=tuple(dict.fromkeys((pack.id, *(source.store.parent.name for source in seen)))),
            fields={
                "labelled": labelled,
                "validation": self._source(pack, split.validation),
                "autoencoder_sources": joint,
                **{key: getattr(pack, key) for key in ("spacing_zyx", "classes", "padding", "pyramid_clip", "ignore")},
                "validation_scans": tuple(scans[name] for name in split.validation),
                "test_scans": test,
                "test_classes": test_classes,
                "test_ignore": test_ignore,
            },
            identity={
                "pack": canonical(pack.id),
                "labelled": canonical(split.labelled),
                "validation": canonical(split.validation),
                "autoencoder_sources": canonical([[source.store.as_posix(), source.cases] for source in joint]),
                "test": test_json,
                "test_classes": canonical(test_classes),
                **({} if test_ignore is None else {"test_ignore": canonical(test_ignore)}),
            },
            older_test=older_test,
        )

    def _test(self, config: RunConfig) -> tuple[TestSet, Canonical, Canonical | None]:
        """The test set, and what of its scans is part of a run's identity, also of an earlier one."""
        scans, classes, ignore = self.catalogue.test_set(config)
        digests, older = self.catalogue.digests(scans), self.catalogue.older_digests(scans)
        now, before = (canonical([[case.name, found[case.name]] for case in scans]) for found in (digests, older))
        return TestSet(self.catalogue.marked(scans), classes, ignore), now, before if before != now else None

    def _seen(self, config: RunConfig, dataset: Dataset, pack: PackSpec, needs: Needs) -> tuple[SourceRef, ...]:
        """Every volume that is seen without its label: training cases, and by configuration the held-out fold, imagesTs
        and supplementary datasets; of imagesTs none of a patient who is held out or set aside. Cases are sorted: all
        subsets of a fold show the same."""
        split, spacing = self.catalogue.split(config), pack.spacing_zyx
        held_out = config.autoencoder.with_validation if needs.held_out is None else needs.held_out
        own = split.labelled + split.unlabelled
        if needs.pseudo_labels:
            own = split.unlabelled or split.labelled  # all are labelled: it teaches itself what it was taught
        own += split.validation if held_out else ()
        measured = split.test if held_out else split.test + split.validation
        images: list[tuple[str, Dataset, tuple[CaseRef, ...], tuple[str, ...]]] = []
        if config.data.unlabelled_ts:
            shown = self._unlabelled_ts(config, dataset, measured)
            images.append((f"{config.data.dataset}-imagesTs", dataset, dataset.test, shown))
        if config.autoencoder.with_supplementary:
            if not config.data.supplementary:
                raise BadInput("autoencoder.with_supplementary = true, but data.supplementary lists no dataset")
            for name in config.data.supplementary:
                for key, measured_one in (("dataset", config.data.dataset), ("test", config.data.test)):
                    if measured_one and self.catalogue.is_one(name, measured_one):
                        raise BadInput(
                            f"data.supplementary: {name!r} is data.{key}, whose scans are measured; leave it out"
                        )
                other = self.catalogue.dataset(name)
                cases = other.training + other.test
                images.append((name, other, cases, tuple(sorted([case.name for case in cases]))))
        sources = [self._source(pack, tuple(sorted(own)))]
        held = self._measured_scans(config, measured) if images else []
        for name, other, cases, shown in images:
            names = {*shown}
            if apart := self.catalogue.unlike(held, [case for case in cases if case.name in names]):
                # Its pack is of all, so that the folds share it.
                sources.append(self._source(self._pack(config, name, other, spacing, (), cases), apart))
        return tuple(sources)

    def _measured_scans(self, config: RunConfig, measured: tuple[str, ...]) -> list[CaseRef]:
        """Scans of the labelled dataset that are measured, and those of its test set."""
        scans, data = self.catalogue.training_scans(config), config.data
        tested = self.catalogue.labelled_test(data.dataset, data.test) if data.test else ()
        return [*(scans[name] for name in measured), *tested]

    def _unlabelled_ts(self, config: RunConfig, dataset: Dataset, measured: tuple[str, ...]) -> tuple[str, ...]:
        """Names of imagesTs that are seen: those of a test set are not, nor another scan of a measured patient."""
        is_test_set = self.catalogue.has_own_test(config)
        tested = {case.name for case in dataset.test if case.label is not None and is_test_set}
        others = [case for case in dataset.test if case.name not in tested]
        if not others:
            kind = "unlabelled scans" if dataset.test else "scans"
            raise BadInput(f"data.unlabelled_ts = true: {dataset.root} has no {kind} in imagesTs; set it to false")
        return self.catalogue.patients_apart(config, (*measured, *tested), others)

    def _pack(
        self,
        config: RunConfig,
        name: str,
        dataset: Dataset,
        spacing: Spacing,
        classes: Classes,
        unlabelled: tuple[CaseRef, ...] | None = None,
    ) -> PackSpec:
        """The pack of some scans without their labels, else of all labelled cases."""
        section = config.preprocessing

        def make() -> PackSpec:
            require_codec(section.codec)
            cases = dataset.training
            if unlabelled is not None:
                cases = tuple(CaseRef(name=case.name, image=case.image) for case in unlabelled)
            spec = pack_spec(section, dataset, cases, spacing, classes).model_copy(update={"dataset": name})
            run_id, older = (
                pack_id(spec, digests_of(cases))
                for digests_of in (self.catalogue.digests, self.catalogue.older_digests)
            )
            run_id = older if older != run_id and self.earlier.packed(older, cases) else run_id
            return spec.model_copy(update={"id": run_id, "cases": self.catalogue.marked(cases)})

        own = "pack" if unlabelled is None else "unlabelled pack"
        spec = self._once((own, name, spacing, classes, section.padding, section.pyramid_clip), make)
        if spec.id not in self.stages:
            self.stages[spec.id] = Stage(spec.id, "pack", (), None, None, lambda: spec)
        return spec

    def _source(self, pack: PackSpec, cases: tuple[str, ...]) -> SourceRef:
        """Cases of a pack; the same object for the same cases."""
        store = Path("pack") / pack.id / STORE_FILE
        return self._once(("source", pack.id, cases), lambda: SourceRef(store=store, cases=cases))
