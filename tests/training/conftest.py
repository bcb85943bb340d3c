"""A packed tiny dataset and the specifications of small runs on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.config import RunConfig
from hpcseg.inference.pseudo_labels import label
from hpcseg.paths import MODEL_FILE, STORE_FILE
from hpcseg.spec import CaseRef, LabelSpec, PackSpec, PretrainSpec, SourceRef, TrainSpec
from hpcseg.training import stages
from hpcseg.training.control import Control
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack

SMALL: dict[str, Any] = {
    "patches": {"size": 16},
    "network": {"levels": 2, "kernel": 3, "maps": 4},
    "training": {"epochs": 3, "steps": 4, "validation_steps": 2, "batch": 2, "learning_rate": 3e-3},
    "autoencoder": {"epochs": 2, "steps": 4, "batch": 2},
    "multitask": {"batch": 2, "autoencoder_batch": 2},
    "teacher": {"supervised_steps": 2, "ramp_steps": 4, "confidence": 0.0},  # so small a network is never sure
    "masked": {"block": 4, "share": 0.5},
}
RECIPE: dict[str, Any] = {  # all of it
    "augmentation": {
        "enabled": True,
        "translation": 2.0,
        "mirror": ["x"],
        "elastic": 2.0,
        "elastic_spacing": 8.0,
        "brightness": 0.3,
        "contrast": 0.3,
        "gamma": 0.3,
        "noise": 0.1,
        "blur": 1.0,
        "intensity_share": 0.5,
    },
    "training": {"average": 0.99, "schedule": "polynomial", "select": "last"},
}
COPYPASTE: dict[str, Any] = {"teacher": SMALL["teacher"] | {"mix": "copypaste", "mix_pairs": 0.7}}
TEACHER: dict[str, Any] = {  # of a network that finds something
    "network": SMALL["network"] | {"init_gain": 1.0},
    "training": {"epochs": 2, "steps": 30, "validation_steps": 1, "batch": 2, "learning_rate": 1e-2},
}
BEFORE: dict[str, tuple[int | None, ...]] = {"transfer": (0, 1), "masked": (None,)}  # pretrainings, see `pretrain_spec`
STORE = Path("pack/tiny/store.h5")


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests promise is promised for CPUs; GPUs have a module of their own."""
    if not request.module.__name__.endswith("test_cuda"):
        monkeypatch.setattr(stages, "pick_device", lambda: torch.device("cpu"))


@pytest.fixture(scope="session")
def runs(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the packed tiny dataset; every test makes run directories of its own in it."""
    root = tmp_path_factory.mktemp("runs")
    dataset = open_dataset(tiny_dataset)
    spec = PackSpec(
        id="tiny",
        dataset="Tiny",
        cases=dataset.training,
        spacing_zyx=(2.0, 2.0, 2.0),
        classes=((1, 2),),
        padding=-1000.0,
        pyramid_clip=(-200.0, 400.0),
    )
    (root / STORE).parent.mkdir(parents=True)
    pack(spec, root / STORE)
    return root


@pytest.fixture(scope="session")
def cases(tiny_dataset: Path) -> tuple[CaseRef, ...]:
    """The labelled cases of the tiny dataset."""
    return open_dataset(tiny_dataset).training


@pytest.fixture
def train_spec(cases: tuple[CaseRef, ...]) -> Callable[..., TrainSpec]:
    """Make the specification of a small training run: four labelled cases, two for validation."""

    def make(
        strategy: str = "baseline",
        pretrained: tuple[Path, ...] = (),
        pseudo_labelled: tuple[SourceRef, ...] = (),
        **changes: Any,
    ) -> TrainSpec:
        names = tuple(case.name for case in cases)
        source = SourceRef(store=STORE, cases=names)
        return TrainSpec(
            id="run",
            config=RunConfig.model_validate({**SMALL, "strategy": strategy, **changes}),
            labelled=SourceRef(store=STORE, cases=names[:4]),
            validation=SourceRef(store=STORE, cases=names[4:]),
            autoencoder_sources=(source,) if strategy in {"multitask", "teacher"} else (),
            pseudo_labelled=pseudo_labelled,
            pretrained=pretrained,
            spacing_zyx=(2.0, 2.0, 2.0),
            classes=((1, 2),),
            padding=-1000.0,
            pyramid_clip=(-200.0, 400.0),
            validation_scans=cases[4:],
        )

    return make


@pytest.fixture
def pretrain_spec(cases: tuple[CaseRef, ...]) -> Callable[..., PretrainSpec]:
    """Make the specification of a small pretraining of one level, or with None of the masked strategy's own."""

    def make(level: int | None, **changes: Any) -> PretrainSpec:
        source = SourceRef(store=STORE, cases=tuple(case.name for case in cases))
        return PretrainSpec(
            id=f"level{level}",
            config=RunConfig.model_validate(
                {**SMALL, "strategy": "masked" if level is None else "transfer", **changes},
            ),
            level=level,
            statistics=SourceRef(store=STORE, cases=source.cases[:4]),
            sources=(source,),
        )

    return make


@pytest.fixture
def pretrained(runs: Path, pretrain_spec: Callable[[int], PretrainSpec]) -> tuple[Path, ...]:
    """Autoencoders of both levels."""
    paths = []
    for level in (0, 1):
        run = runs / "pretrain" / f"level{level}"
        run.mkdir(parents=True, exist_ok=True)
        if not (run / MODEL_FILE).exists():
            stages.train(run, pretrain_spec(level), Control(run))
        paths.append(run.relative_to(runs) / MODEL_FILE)
    return tuple(paths)


@pytest.fixture
def new_run(runs: Path, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """An empty run directory."""

    def make(name: str) -> Path:
        run = runs / "train" / f"{request.node.name}-{name}".replace("/", "-")
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        return run

    return make


@pytest.fixture
def pseudo_labelled(runs: Path, train_spec: Callable[..., TrainSpec]) -> SourceRef:
    """The cases that are not for validation, with labels of the small baseline "train/teacher", which is trained."""
    teacher, folder = runs / "train" / "teacher", runs / "label" / "teacher"
    spec = train_spec(**TEACHER)
    if not (teacher / MODEL_FILE).exists():
        teacher.mkdir(parents=True)
        stages.train(teacher, spec, Control(teacher))
    if not (folder / STORE_FILE).exists():
        folder.mkdir(parents=True)
        model = (teacher / MODEL_FILE).relative_to(runs)
        own = LabelSpec(id="teacher", config=spec.config, model=model, source=spec.labelled, confidence=0.5)
        label(folder, own, Control(folder))
    return spec.labelled.model_copy(update={"labels": (folder / STORE_FILE).relative_to(runs)})
