"""Labels that a network gives packed volumes: on their own grid, in a store of their own, and once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from hpcseg.errors import Interrupted, StoreError
from hpcseg.files import write_text
from hpcseg.inference import pseudo_labels
from hpcseg.inference.predict import Predictor
from hpcseg.inference.pseudo_labels import decided, label
from hpcseg.jobs.entry import execute
from hpcseg.paths import RUN_FILE
from hpcseg.runs.rundir import RunDir
from hpcseg.spec import IGNORED, LabelSpec, SourceRef, TrainSpec
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel
from hpcseg.training.ranks import Ranks
from hpcseg.training.rehearsal import SIGNALS
from hpcseg.training.stages import train
from hpcseg.volumes.store import Store
from tests.training.conftest import (  # noqa: F401  (fixtures)
    STORE,
    TEACHER,
    cases,
    runs,
    train_spec,
)

MODEL = Path("train/labels-teacher/model.pt")


class StopAfter(Control):
    def __init__(self, run: Path, times: int) -> None:
        super().__init__(run)
        self.left = times

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(autouse=True)
def one_cpu_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_labels, "pick_device", lambda: torch.device("cpu"))


class OneOfTwo(Ranks):
    """A rank that another one waits for nowhere: it does what it would do beside it, up to the joining of all cases."""

    def any(self, flag: bool) -> bool:
        return flag


class BesideAnother(Ranks):
    """A rank that waits for no other: what it does is done before or after the other's."""

    def any(self, flag: bool) -> bool:
        return flag


def attempt(run: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.exit(execute(RunDir(Path(run))) != "done")


@pytest.fixture
def specified(runs: Path, train_spec: Callable[..., TrainSpec]) -> Callable[..., tuple[Path, LabelSpec]]:  # noqa: F811
    """A run directory and what it has to do; the network is trained."""
    spec, teacher = train_spec(**TEACHER), (runs / MODEL).parent
    if not (runs / MODEL).exists():
        teacher.mkdir(parents=True, exist_ok=True)
        train(teacher, spec, Control(teacher))

    def make(name: str, **changes: Any) -> tuple[Path, LabelSpec]:
        run = runs / "label" / name
        run.mkdir(parents=True)
        source = SourceRef(store=STORE, cases=(*spec.labelled.cases, *spec.validation.cases)[1:])
        values: dict[str, Any] = {"id": name, "config": spec.config, "model": MODEL, "source": source}
        return run, LabelSpec(**(values | {"confidence": 0.0} | changes))

    return make


def test_a_voxel_has_its_most_probable_class_unless_that_is_too_improbable() -> None:
    one = np.array([0.2, 0.45, 0.55, 0.9], np.float32).reshape(1, 1, 1, 4)
    assert decided(one, 0.0).ravel().tolist() == [0, 0, 1, 1]
    assert decided(one, 0.8).ravel().tolist() == [0, IGNORED, IGNORED, 1]
    two = np.array([[0.1, 0.5, 0.3], [0.1, 0.2, 0.4]], np.float32).reshape(2, 1, 1, 3)
    assert decided(two, 0.0).ravel().tolist() == [0, 1, 2]
    assert decided(two, 0.5).ravel().tolist() == [0, 1, IGNORED]


def test_labels_are_what_the_network_predicts_on_the_store_s_own_grid(
    specified: Callable[..., tuple[Path, LabelSpec]],
    runs: Path,  # noqa: F811
) -> None:
    run, spec = specified("whole")
    label(run, spec, Control(run))
    predictor = Predictor(TrainedModel.load(runs / MODEL), torch.device("cpu"))
    with Store(run / "store.h5", verify=True) as labels, Store(runs / STORE) as images:
        assert labels.names == tuple(sorted(spec.source.cases)) and labels.classes == ((1, 2),)
        assert labels.spacing_zyx == images.spacing_zyx
        assert not [problem for name in labels.names for problem in labels.case(name).problems()]
        for name in labels.names:
            own, case = labels.case(name), images.case(name)
            expected = np.concatenate([decided(slab, 0.0) for slab in predictor.slabs(case)])
            relabelled = case.with_labels(own)
            everything = relabelled.read_label((0, 0, 0), case.shape_zyx)
            assert np.array_equal(everything, expected) and everything.any()
            assert np.array_equal(relabelled.read(0, (0, 0, 0), (4, 4, 4)), case.read(0, (0, 0, 0), (4, 4, 4)))
            voxels = relabelled.foreground_by_class[1]
            assert relabelled.foreground_classes == (1,) and expected[tuple(voxels.T)].all()
            assert not np.array_equal(case.read_label((0, 0, 0), case.shape_zyx), expected)
        with pytest.raises(StoreError, match="another grid"):
            case.with_labels(cast(Any, SimpleNamespace(path=run, shape_zyx=(1, 1, 1))))
    assert not list(run.glob(".*parts")) and (run / "store.h5").stat().st_size < 0.6 * (runs / STORE).stat().st_size


def test_several_networks_label_by_the_average_of_their_probabilities(
    specified: Callable[..., tuple[Path, LabelSpec]],
    train_spec: Callable[..., TrainSpec],  # noqa: F811
    runs: Path,  # noqa: F811
) -> None:
    other = runs / "train" / "labels-other"
    other.mkdir(parents=True)
    train(other, train_spec(**(TEACHER | {"seed": 1})), Control(other))
    models = (MODEL, (other / "model.pt").relative_to(runs))
    run, spec = specified("average", others=models[1:])
    label(run, spec, Control(run))
    predictors = [Predictor(TrainedModel.load(runs / model), torch.device("cpu")) for model in models]
    with Store(run / "store.h5", verify=True) as labels, Store(runs / STORE) as images:
        for name in labels.names:
            case = images.case(name)
            first, second = (np.concatenate([*one.slabs(case)], axis=1) for one in predictors)
            found = labels.case(name).read_label((0, 0, 0), case.shape_zyx)
            assert np.array_equal(found, decided((first + second) / 2, 0.0))
            assert not np.array_equal(first, second)


def test_ranks_label_the_cases_in_turn_and_leave_the_same_bytes(
    specified: Callable[..., tuple[Path, LabelSpec]],
) -> None:
    one, spec = specified("one")
    label(one, spec, Control(one))
    two, _ = specified("two")
    done = {}
    for rank in (1, 0):
        label(two, spec, Control(two), BesideAnother(rank, 2, torch.device("cpu")))
        done[rank] = sorted(path.name for path in two.glob(".store.parts/*"))
    assert done == {1: ["1", "3"], 0: []}
    assert (two / "store.h5").read_bytes() == (one / "store.h5").read_bytes()


@pytest.mark.slow
def test_a_labelling_that_signals_interrupt_anywhere_leaves_the_same_bytes(
    specified: Callable[..., tuple[Path, LabelSpec]], storm: Callable[[int, int], int]
) -> None:
    whole, spec = specified("undisturbed", id="interrupted")
    label(whole, spec, Control(whole))
    run, _ = specified("interrupted")
    write_text(run / RUN_FILE, spec.model_dump_json())
    draw, context = random.Random(0), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "hpcseg.jobs.entry", "hpcseg.inference.pseudo_labels"])
    landed, first = 0, -1
    while landed < storm(3, 20):
        process = context.Process(target=attempt, args=(str(run),), daemon=True)
        process.start()
        while process.is_alive() and len(list(run.glob(".store.parts/[0-9]"))) <= first:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(cast(int, process.pid), draw.choice(SIGNALS))
        process.join()
        landed += process.exitcode != 0
        first = len(list(run.glob(".store.parts/[0-9]")))
        if process.exitcode == 0:
            assert (run / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()
            (run / "done.json").unlink()
            first = -1
    last = context.Process(target=attempt, args=(str(run),), daemon=True)
    last.start()
    last.join()
    assert last.exitcode == 0 and (run / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_labelling_goes_on_where_it_was_stopped_and_gives_the_same_bytes(
    specified: Callable[..., tuple[Path, LabelSpec]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, spec = specified("at-once")
    label(whole, spec, Control(whole))
    parts, _ = specified("in-parts")
    done: list[str] = []
    plain = pseudo_labels._labelled

    def counted(case: Any, *rest: Any) -> Any:
        done.append(case.name)
        return plain(case, *rest)

    monkeypatch.setattr(pseudo_labels, "_labelled", counted)
    for times in (1, 2, 3):
        with pytest.raises(Interrupted, match=f"stopped after {times} of 5 cases"):
            label(parts, spec, StopAfter(parts, times))
    (parts / ".store.parts" / "1").write_bytes(b"cut")
    label(parts, spec, Control(parts))
    assert sorted(done) == sorted([*spec.source.cases, spec.source.cases[1]])
    assert (parts / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()
