"""Fixtures for several rooms: tiny studies on real files, and plans whose stages are real but cheap (packs only)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from hpcseg.jobs.entry import execute
from hpcseg.runs.records import Submission
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from tests.tree import write_tree
from tests.waiting import wait_for

STUDY = Path(__file__).with_name("study.toml").read_text()


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[[str], Path]:
    """Write a sweep file."""

    def write(text: str, name: str = "study.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def plan_study(tmp_path: Path, tiny_dataset: Path, write_sweep: Callable[[str], Path]) -> Callable[..., Plan]:
    """Plan the study above, with overrides, below tmp_path / "runs"."""

    def plan(*overrides: str, text: str = STUDY, data: Path | None = None) -> Plan:
        sweep = read_sweep(write_sweep(text), overrides)
        return make_plan(sweep, data or tiny_dataset.parent, tmp_path / "runs")

    return plan


@pytest.fixture
def plan_packs(plan_study: Callable[..., Plan]) -> Callable[..., Plan]:
    """Plan only the packs of the study, one for each spacing: real jobs of about a second."""

    def plan(spacings: Sequence[float] = (4.0,), data: Path | None = None) -> Plan:
        full = plan_study(f"preprocessing.spacing=[[{'],['.join(f'{s},{s},{s}' for s in spacings)}]]", data=data)
        return Plan(full.sweep, full.runs_root, full.of_stage("pack"), {})

    return plan


def run_here(plan: Plan, run_ids: Iterable[str]) -> None:
    """Run stages of a plan in this process, ancestors first, as `hpcseg train` does."""
    threads = torch.get_num_threads()
    for run_id in run_ids:
        run = plan.run(run_id)
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text(plan.stages[run_id].spec.model_dump_json())
        run.write_submission(Submission(backend="foreground", submitted=time.time()))
        assert execute(run) == "done"
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", name="write_tree")
def write_tree_fixture() -> Callable[[Path], Path]:
    return write_tree


APPLY = """\
import json, sys
from pathlib import Path
from hpcseg.errors import HpcsegError
from hpcseg.submit.apply import apply
from hpcseg.study.plan import make_plan
from hpcseg.submit.profile import LocalProfile, Profile
from hpcseg.study.sweepfile import read_sweep

sweep, data, runs, *overrides = sys.argv[1:]
plan = make_plan(read_sweep(Path(sweep), overrides), Path(data), Path(runs))
try:
    outcome = apply(plan, "local", Profile(local=LocalProfile(slots=2, threads=1, pack_workers=1)))
except HpcsegError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print(json.dumps({"submitted": outcome.submitted, "failed": outcome.failed}))
"""


@pytest.fixture
def start_apply(tmp_path: Path, tiny_dataset: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Apply a sweep file in a process of its own, as the leader of its own process group."""
    started: list[subprocess.Popen[str]] = []

    def start(sweep: Path, *overrides: str, data: Path | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", APPLY, str(sweep), str(data or tiny_dataset.parent), str(tmp_path / "runs")]
        process = subprocess.Popen(
            [*command, *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    return wait_for
