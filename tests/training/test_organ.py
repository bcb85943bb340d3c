"""With organ sampling, each volume is located once per run, and only from the labels that the run may use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpcseg.errors import Interrupted
from hpcseg.files import read_json
from hpcseg.patches.source import Source
from hpcseg.paths import MODEL_FILE, ORGAN_FILE
from hpcseg.spec import AS_IT_COMES, PretrainSpec, SourceRef, TrainSpec
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.control import Control
from hpcseg.training.ranks import ALONE
from hpcseg.training.stages import train
from hpcseg.training.stores import Stores, around_organ

AROUND = {"sampling": "organ", "sigma": 0.05}


@pytest.fixture
def spec(pretrain_spec: Callable[[int], PretrainSpec]) -> PretrainSpec:
    """A pretraining that samples around the organ; four of its cases are labelled."""
    made = pretrain_spec(0)
    autoencoder = made.config.autoencoder.model_copy(update=AROUND)
    return made.model_copy(update={"config": made.config.model_copy(update={"autoencoder": autoencoder})})


@pytest.fixture
def located(runs: Path, spec: PretrainSpec, tmp_path: Path) -> Callable[..., list[Source]]:
    """Locate the organ of all cases of the specification, from the labels of some."""

    def locate(labelled: SourceRef = spec.statistics, run: Path = tmp_path, control: Control | None = None) -> Any:
        with ExitStack() as stack:
            stores = Stores(runs, stack, spec.sources, AS_IT_COMES, Control(run), None)
            preprocessing = spec.config.preprocessing
            window = stores.window(preprocessing, spec.statistics)
            known = stores.sources(preprocessing, [labelled], window)
            sources = stores.sources(preprocessing, spec.sources, window)
            return around_organ(run, known, sources, control or Control(run), ALONE)

    return locate


def test_labelled_cases_are_known_and_the_others_estimated(located: Any, spec: PretrainSpec, tmp_path: Path) -> None:
    sources = located()
    places = read_json(tmp_path / ORGAN_FILE)
    assert [place["case"] for place in places] == list(spec.sources[0].cases)
    for place, source in zip(places, sources, strict=True):
        assert source.centre_3 == tuple(place["centre_3"])
        assert (place["known"] == "label") == (place["case"] in spec.statistics.cases)
        assert all(0 <= c < n for c, n in zip(source.centre_3, source.case.shape_zyx, strict=True))


def test_an_estimate_does_not_look_at_labels_that_the_run_may_not_use(
    located: Any, spec: PretrainSpec, runs: Path, tmp_path: Path
) -> None:
    first, second = spec.statistics.cases[:2]
    only_first = located(SourceRef(store=spec.statistics.store, cases=(first,)))
    other = tmp_path / "other"
    other.mkdir()
    both = located(SourceRef(store=spec.statistics.store, cases=(first, second)), run=other)
    index = spec.sources[0].cases.index(second)
    assert read_json(tmp_path / ORGAN_FILE)[index]["known"] != "label"
    assert read_json(other / ORGAN_FILE)[index]["known"] == "label"
    assert only_first[index].centre_3 != both[index].centre_3


def test_what_was_located_is_read_again_by_a_resumed_job(located: Any, tmp_path: Path) -> None:
    before = located()
    written = (tmp_path / ORGAN_FILE).stat().st_mtime_ns
    assert [source.centre_3 for source in located()] == [source.centre_3 for source in before]
    assert (tmp_path / ORGAN_FILE).stat().st_mtime_ns == written


def test_a_job_that_is_stopped_while_it_looks_leaves_no_half_of_it(located: Any, tmp_path: Path) -> None:
    control = Control(tmp_path)
    control.ask_to_stop()
    with pytest.raises(Interrupted):
        located(control=control)
    assert not (tmp_path / ORGAN_FILE).exists()


def test_pretraining_around_the_organ_is_pure_and_not_that_around_the_middle(
    runs: Path, spec: PretrainSpec, tmp_path: Path
) -> None:
    def weights(name: str, of: PretrainSpec) -> dict[str, torch.Tensor]:
        run = runs / "pretrain" / f"{tmp_path.name}-{name}"
        run.mkdir(parents=True)
        train(run, of, Control(run))
        assert (run / ORGAN_FILE).exists() == (of.config.autoencoder.sampling == "organ")
        found: dict[str, torch.Tensor] = load_tensors(run / MODEL_FILE)["weights"]
        return found

    autoencoder = spec.config.autoencoder.model_copy(update={"sampling": "gaussian"})
    middle = spec.model_copy(update={"config": spec.config.model_copy(update={"autoencoder": autoencoder})})
    first, second, other = weights("1", spec), weights("2", spec), weights("3", middle)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_joint_training_samples_around_the_organ_too(
    runs: Path, train_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    run = runs / "train" / f"{tmp_path.name}-joint"
    run.mkdir(parents=True)
    of = train_spec("multitask")
    autoencoder = of.config.autoencoder.model_copy(update=AROUND)
    of = of.model_copy(update={"config": of.config.model_copy(update={"autoencoder": autoencoder})})
    train(run, of, Control(run))
    assert {place["known"] for place in read_json(run / ORGAN_FILE)} <= {"label", "likeness", "middle"}
    assert np.isfinite([float(weight.sum()) for weight in load_tensors(run / MODEL_FILE)["weights"].values()]).all()
