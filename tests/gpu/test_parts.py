"""Every part of `make gpu`: on a CPU a rehearsal at toy sizes, whose numbers mean nothing.

`make gpu` says in HPCSEG_GPU what to measure on, and where the page is. Each part has its time then, after which pytest
ends the process.
"""

from __future__ import annotations

import gc
import json
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from hpcseg.training.precision import place
from tests.gpu.device import Machine, machine_for
from tests.gpu.kit import Kit
from tests.gpu.material import write_store
from tests.gpu.parts import GRACE_S, PARTS, STUDY, Part
from tests.gpu.report import keep, read_results
from tests.gpu.sizes import PAPER, TINY, Sizes

SESSION = os.environ.get("HPCSEG_GPU")
FIGURES = {
    "ceilings.measure": ("ceiling_copy_gbs",),
    "steps.measure": ("validation_step_ms",),
    "loading.gather": ("gather_ms",),
    "loading.busy": ("busy_resident", "busy_streamed"),
    "decoder.measure": ("decoder_ratio_gpu",),
    "steps.strategies": ("autoencoder1_ms", "multitask_ms"),
    "steps.exact": ("step_float32_ms",),
    "study.measure": ("dsc_float32",),
}


@dataclass(frozen=True)
class Session:
    """On what parts measure, in which sizes, with which folder, until when (Unix seconds), and for which page."""

    machine: Machine
    sizes: Sizes
    folder: Path
    end: float
    docs: Path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    if SESSION is None:
        folder = tmp_path_factory.mktemp("gpu")
        write_store(folder, TINY)
        kind, end, docs = "cpu", float("inf"), folder
    else:
        kind, end, folder, docs = json.loads(SESSION)
    sizes = PAPER if kind == "cuda" else TINY
    machine = machine_for(kind, sizes.patience_s)
    place(nn.Identity(), machine.device)  # float32 is float32 from here on, as in training
    return Session(machine, sizes, Path(folder), end, Path(docs))


def item(part: Part) -> object:
    """With its time where that counts."""
    if SESSION is not None:
        return pytest.param(part, id=part.name, marks=pytest.mark.timeout(part.budget_s + GRACE_S, method="thread"))
    long = part.name == "steps.compiled"
    return pytest.param(part, id=part.name, marks=pytest.mark.skipif(long, reason="compiles for minutes"))


@pytest.mark.parametrize("part", [item(part) for part in (STUDY, *PARTS)])
def test_part(part: Part, session: Session) -> None:
    left = session.end - time.time()
    if left < GRACE_S:
        pytest.skip("no time left")
    until = time.monotonic() + min(part.budget_s, left) if SESSION else float("inf")
    known = read_results(session.docs).figures
    kit = Kit(session.machine, session.sizes, session.folder, until, known, keep=partial(keep, session.docs, part))
    try:
        kit.measure(part)
    finally:
        gc.collect()
    found = kit.found
    assert (found.failed, found.late) == ([], [])
    if session.sizes is TINY:
        assert found.tables or part.name == "steps.measure", "a CPU may have no 16 bits"
        assert all("instructions" in reason for reason in found.missing), found.missing
        assert all(found.figures[name] > 0 or name.startswith("dsc") for name in FIGURES.get(part.name, ()))
    if part is STUDY and session.sizes is TINY:
        assert found.tables[0].rows[0][0] == "float32"
        assert not any(name.endswith("_margin") for name in found.figures), "of two seeds there is no spread"
