"""From a sweep to its stages (pack, pretrain, train), each shared ancestor once, and what stands of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.spec import CaseRef, PackSpec, PretrainSpec, SourceRef, Spacing, TrainSpec
from hpcseg.sweeps.catalogue import Catalogue, resolve_padding, resolve_pyramid_clip
from hpcseg.sweeps.evidence import TO_SUBMIT, Verdict
from hpcseg.sweeps.identity import pack_id, pretrain_id, train_id
from hpcseg.sweeps.rundir import MODEL_FILE, STAGES, STORE_FILE, RunDir
from hpcseg.sweeps.status import judge_all
from hpcseg.sweeps.sweepfile import Sweep, expand
from hpcseg.volumes.chunks import require_codec
from hpcseg.volumes.datasets import Dataset

Spec = PackSpec | PretrainSpec | TrainSpec


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the plan: what to do, what must be done before, and how it stands."""

    spec: Spec
    needs: tuple[str, ...]
    verdict: Verdict

    @property
    def to_submit(self) -> bool:
        """Whether applying the plan submits it."""
        return self.verdict.state in TO_SUBMIT


@dataclass(frozen=True)
class Plan:
    """All stages of a sweep by id, ancestors first, and the cells of the grids that each training run fills."""

    sweep: Sweep
    runs_root: Path
    stages: Mapping[str, PlannedStage]
    cells: Mapping[str, list[dict[str, Any]]]

    def of_stage(self, stage: str) -> dict[str, PlannedStage]:
        """The stages of one kind."""
        return {run_id: planned for run_id, planned in self.stages.items() if planned.spec.stage == stage}

    def run(self, run_id: str) -> RunDir:
        """Directory of one stage."""
        return RunDir.of(self.runs_root, self.stages[run_id].spec.stage, run_id)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many stages of each kind are in each state."""
        return {stage: dict(Counter(p.verdict.state for p in self.of_stage(stage).values())) for stage in STAGES}

    def as_json(self) -> dict[str, Any]:
        """The plan for `--json`."""
        runs = {
            stage: [
                {"id": run_id, "state": planned.verdict.state, "why": planned.verdict.why, "needs": list(planned.needs)}
                for run_id, planned in self.of_stage(stage).items()
            ]
            for stage in STAGES
        }
        return {
            "sweep": self.sweep.name,
            "runs": runs,
            "counts": self.counts(),
            "to_submit": sum(planned.to_submit for planned in self.stages.values()),
            "total_training_runs": len(runs["train"]),
        }


def make_plan(sweep: Sweep, data: Path, runs_root: Path) -> Plan:
    """Resolve every cell of `sweep` against the datasets below `data`, and look at what stands below `runs_root`.

    Nothing is written.

    Raises:
        BadInput: a value is not allowed, a dataset or a file of it is missing, a split is impossible.
    """
    runs_root = runs_root.resolve()
    resolver = _Resolver(Catalogue(data))
    cells: dict[str, list[dict[str, Any]]] = {}
    for number, cell in enumerate(expand(sweep)):
        try:
            run_id = resolver.train(cell.config)
        except BadInput as error:
            place = ", ".join(f"{axis} = {value!r}" for axis, value in cell.axes.items())
            raise BadInput(f"{error}" + (f" ({sweep.source.path}: {place})" if place else "")) from None
        cells.setdefault(run_id, []).append({"grid": cell.grid, "axes": cell.axes, "number": number})
    ordered = sorted(resolver.specs.values(), key=lambda spec: STAGES.index(spec.stage))
    verdicts = judge_all([RunDir.of(runs_root, spec.stage, spec.id) for spec in ordered], resolver.needs)
    stages = {spec.id: PlannedStage(spec, resolver.needs[spec.id], verdicts[spec.id]) for spec in ordered}
    return Plan(sweep, runs_root, stages, cells)


@dataclass
class _Resolver:
    """Turns configurations into stages; a stage that was met before is not made again."""

    catalogue: Catalogue
    specs: dict[str, Spec] = field(default_factory=dict)
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _packs: dict[tuple[Any, ...], PackSpec] = field(default_factory=dict)

    def train(self, config: RunConfig) -> str:
        """Make the training run of `config` and all that it needs; returns its id."""
        dataset, split = self.catalogue.main(config), self.catalogue.split(config)
        pack = self._main_pack(config, dataset)
        labelled = SourceRef(store=_store(pack), cases=split.labelled)
        sources: tuple[SourceRef, ...] = ()
        needs = [pack.id]
        pretrained: list[str] = []
        if config.strategy == "transfer":
            seen = self._autoencoder_sources(config, dataset, pack)
            pretrained = [self._pretrain(config, level, labelled, seen) for level in range(config.network.levels)]
            needs += pretrained
        if config.strategy == "multitask":
            sources = self._autoencoder_sources(config, dataset, pack)
            needs += [source.store.parent.name for source in sources]
        test, test_classes = self.catalogue.test_set(config)
        resolved = {
            "pack": pack.id,
            "labelled": split.labelled,
            "validation": split.validation,
            "autoencoder_sources": [[source.store.as_posix(), source.cases] for source in sources],
            "pretrained": pretrained,
            "test": [[case.name, self.catalogue.digest(case)] for case in test],
            "test_classes": test_classes,
        }
        run_id = train_id(config, resolved)
        if run_id not in self.specs:
            scans = {case.name: case for case in dataset.training}
            spec = TrainSpec(
                id=run_id,
                config=config,
                labelled=labelled,
                validation=SourceRef(store=_store(pack), cases=split.validation),
                autoencoder_sources=sources,
                pretrained=tuple(Path("pretrain") / name / MODEL_FILE for name in pretrained),
                spacing_zyx=pack.spacing_zyx,
                classes=pack.classes,
                padding=pack.padding,
                pyramid_clip=pack.pyramid_clip,
                validation_scans=tuple(scans[name] for name in split.validation),
                test_scans=test,
                test_classes=test_classes,
            )
            self._add(spec, needs)
        return run_id

    def _pretrain(self, config: RunConfig, level: int, statistics: SourceRef, sources: tuple[SourceRef, ...]) -> str:
        run_id = pretrain_id(config, level, statistics, sources)
        if run_id not in self.specs:
            spec = PretrainSpec(id=run_id, config=config, level=level, statistics=statistics, sources=sources)
            self._add(spec, [source.store.parent.name for source in (statistics, *sources)])
        return run_id

    def _autoencoder_sources(self, config: RunConfig, dataset: Dataset, pack: PackSpec) -> tuple[SourceRef, ...]:
        """Every volume that the autoencoders see: training cases, and by configuration the held-out fold, imagesTs
        and supplementary datasets. Cases are sorted, so that all subsets of a fold show the same."""
        split, spacing = self.catalogue.split(config), pack.spacing_zyx
        own = split.labelled + split.unlabelled + (split.validation if config.autoencoder.with_validation else ())
        sources = [SourceRef(store=_store(pack), cases=tuple(sorted(own)))]
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
        return self._pack(config, config.data.dataset, dataset, dataset.training, spacing, classes)

    def _image_pack(
        self, config: RunConfig, name: str, part: str, cases: tuple[CaseRef, ...], spacing: Spacing
    ) -> SourceRef:
        """Cases of a pack without labels."""
        unlabelled = tuple(CaseRef(name=case.name, image=case.image) for case in cases)
        pack = self._pack(config, f"{name}{part}", self.catalogue.dataset(name), unlabelled, spacing, ())
        return SourceRef(store=_store(pack), cases=tuple(sorted(case.name for case in cases)))

    def _pack(
        self,
        config: RunConfig,
        name: str,
        dataset: Dataset,
        cases: tuple[CaseRef, ...],
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
                cases=cases,
                spacing_zyx=spacing,
                classes=classes,
                padding=padding,
                pyramid_clip=clip,
                codec=config.preprocessing.codec,
            )
            digests = {case.name: self.catalogue.digest(case) for case in cases}
            self._packs[key] = spec.model_copy(update={"id": pack_id(spec, digests)})
        spec = self._packs[key]
        if spec.id not in self.specs:
            self._add(spec, [])
        return spec

    def _add(self, spec: Spec, needs: list[str]) -> None:
        self.specs[spec.id] = spec
        self.needs[spec.id] = tuple(dict.fromkeys(needs))


def _store(pack: PackSpec) -> Path:
    """Path of a pack's store, relative to the folder of all runs."""
    return Path("pack") / pack.id / STORE_FILE
