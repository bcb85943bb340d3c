"""The kinds of stages, and what runs them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.paths import STORE_FILE
from hpcseg.runs.parents import note_parents, parents_of
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.spec import AnySpec, CaseRef, LabelSpec, PackSpec, PretrainSpec, TrainSpec, read_spec
from hpcseg.training.control import Control
from hpcseg.training.rank_info import RankInfo
from hpcseg.training.strategy import check_shares
from hpcseg.version import code_version
from hpcseg.volumes.digests import require_unchanged


def run_spec(
    run: RunDir,
    spec: AnySpec,
    submission: Submission,
    control: Control,
    info: RankInfo,
) -> None:
    """Do what `spec` says in this process, as `submission` says, until it is done.

    Raises:
        Interrupted: asked to stop; what is done is saved.
        Exception: whatever the stage raised.
    """
    if isinstance(spec, PackSpec):
        _pack(run, spec, submission, control)
    else:
        check_shares(spec, info.world)
        _train(run, spec, submission, control, info)


def _train(
    run: RunDir, spec: PretrainSpec | LabelSpec | TrainSpec, submission: Submission, control: Control, info: RankInfo
) -> None:
    began = time.monotonic()
    code_version()  # asked now: the checkout may move on while the job runs
    if submission.backend == "local":
        os.environ["CUDA_VISIBLE_DEVICES"] = submission.gpus  # before torch looks
    import torch

    torch.set_num_threads(submission.threads)
    from hpcseg.kernels import by_trial, torch_alone
    from hpcseg.training import stages
    from hpcseg.training.checkpoint import remove_checkpoints
    from hpcseg.training.ranks import joined

    alone, trial = torch_alone(submission.kernels == "torch"), by_trial(submission.kernels == "trial")
    with joined(info, run.path, control.should_stop) as ranks, alone, trial:
        ranks.of_leader(lambda: require_unchanged(_scans_of(run, spec)))
        if ranks.of_leader(lambda: note_parents(run.path, parents_of(spec))):
            control.begin_anew()
        if isinstance(spec, LabelSpec):
            from hpcseg.inference import pseudo_labels

            pseudo_labels.label(run.path, spec, control, ranks)
        else:
            from hpcseg.inference.evaluate import measure_scans

            stages.train(run.path, spec, control, submission.reading, ranks, measure_scans)
        if isinstance(spec, TrainSpec):
            from hpcseg.inference import evaluate

            evaluate.evaluate(run.path, spec, control, ranks)
        elif ranks.leads:
            run.mark_done(seconds=round(time.monotonic() - began, 1))
            remove_checkpoints(run.path)


def _scans_of(run: RunDir, spec: PretrainSpec | LabelSpec | TrainSpec) -> Iterator[CaseRef]:
    """The scans that a run is measured on, and those that the stores it reads were made from."""
    measured: tuple[CaseRef, ...] = ()
    if isinstance(spec, TrainSpec):
        measured = (*spec.validation_scans, *spec.test_scans)
        sources = (spec.labelled, *spec.autoencoder_sources, *spec.pseudo_labelled)
    else:
        sources = (spec.source,) if isinstance(spec, LabelSpec) else (spec.statistics, *spec.sources)
    yield from measured
    read: dict[Path, set[str]] = {}
    for source in sources:
        read.setdefault(source.store.parent, set()).update(source.cases)
    for pack, names in read.items():
        packed = None
        with suppress(BadInput):  # a store can do without
            packed = read_spec(run.runs_root / pack)
        if isinstance(packed, PackSpec):
            yield from (case for case in packed.cases if case.name in names)


def _pack(run: RunDir, spec: PackSpec, submission: Submission, control: Control) -> None:
    from hpcseg.volumes.packing import pack

    began = time.monotonic()
    require_unchanged(spec.cases)

    def progress(done: int, cases: int, name: str) -> None:
        control.reached(done)
        control.beat(phase="pack", step=done, steps=cases)

    def should_stop() -> bool:
        run.path.stat()  # a folder that was renamed meanwhile is not made again
        control.pulse()
        return control.should_stop()

    pack(spec, run.path / STORE_FILE, workers=submission.workers, progress=progress, should_stop=should_stop)
    run.mark_done(seconds=round(time.monotonic() - began, 1))
