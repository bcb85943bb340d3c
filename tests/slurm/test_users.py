"""Runs that another user submitted, on a real Slurm: as root, with a second uid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcseg.runs.states import read_states
from hpcseg.runs.status import read_status
from hpcseg.slurm.queue import read_queue
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.apply import apply
from tests.commandline import call, checked
from tests.slurm.cluster import Cluster
from tests.slurm.profiles import profile_of

OTHER = 65534
STUDY = Path(__file__).parents[1] / "study.toml"
SWEEP = ("sweep", "study.toml", "--on", "slurm", "--data", "data", "--jobs", "later.toml", "--yes")
LATER = {"begin": "now+1hour"}
Answer = subprocess.CompletedProcess[str]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user as well")


@pytest.fixture
def folder(tiny_dataset: Path) -> Iterator[Path]:
    """A folder with data that everybody reads, and in it one of each user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(tiny_dataset, folder / "data" / tiny_dataset.name)
        shutil.copy(STUDY, folder)
        for user in ("own", "other"):
            (folder / user).mkdir(mode=0o755)
        shutil.chown(folder / "other", OTHER)
        stage = 'cpus = 1\nmemory = "900M"\ngpus = 0\n'
        (folder / "later.toml").write_text(
            f'[slurm.flags]\nbegin = "{LATER["begin"]}"\n[slurm.pack]\n{stage}[slurm.train]\n{stage}'
        )
        yield folder


@pytest.fixture
def as_other(slurm: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Answer]]:
    """Call `hpcseg` as the other user, who may not be able to read this Python: in a fork of this process.

    What a command imports on its way is there then, as this user has called it before.
    """
    slurm.folder.chmod(0o755)
    for words in (SWEEP, ("status",), ("status", "--json"), ("retry", "study"), ("cancel", "study")):
        checked(call(folder, *words, "--runs", "own/first"))
    monkeypatch.setenv("HOME", str(folder / "other"))

    def answer(*words: str) -> Answer:
        here, there = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.chdir(folder)  # `call` comes back to where it began, and the other user may not enter the clone
                os.setgroups([])
                os.setgid(OTHER)
                os.setuid(OTHER)
                done = call(folder, *words)
                os.write(there, json.dumps([done.returncode, done.stdout, done.stderr]).encode())
            finally:
                os._exit(0)  # whatever happens: as a second pytest it would hold the pipe for ever
        os.close(there)
        with os.fdopen(here) as pipe:
            code, out, err = json.loads(pipe.read() or "[-1, '', 'it ended without a word']")
        os.waitpid(pid, 0)
        return Answer(words, code, out, err)

    yield answer
    slurm.call("scancel", f"--user={OTHER}", check=False)


def planned(folder: Path) -> Plan:
    return make_plan(read_sweep(folder / "study.toml"), folder / "data", folder / "own" / "runs")


def states_in(answer: Answer) -> dict[str, str]:
    return {line["stage"]: line["state"] for line in json.loads(answer.stdout)}


def test_what_another_user_has_in_the_queue_is_seen(as_other: Callable[..., Answer], folder: Path) -> None:
    checked(as_other(*SWEEP, "--runs", "other/runs"))
    lines = read_status(folder / "other" / "runs")
    assert [line.state for line in lines] == ["queued", "queued"]
    assert not read_queue().jobs and {read_queue([OTHER]).jobs[line.job].uid for line in lines} == {OTHER}
    again = make_plan(read_sweep(folder / "study.toml"), folder / "data", folder / "other" / "runs")
    assert not any(planned.to_submit for planned in again.stages.values())


def test_a_second_user_sees_the_first_ones_runs_and_ends_none_of_them(
    as_other: Callable[..., Answer], folder: Path
) -> None:
    plan = planned(folder)
    apply(plan, "slurm", profile_of(flags=LATER))
    jobs = {i: verdict.job for i, verdict in read_states([plan.run(i) for i in plan.stages]).verdicts.items()}
    seen = as_other("status", "--runs", "own/runs", "--json")
    assert states_in(seen) == {"pack": "queued", "train": "queued"}, seen.stdout
    for words in (("cancel", "study"), ("retry", "study"), SWEEP):
        done = as_other(*words, "--runs", "own/runs")
        said = done.stderr.strip()
        assert done.returncode in {0, 1, 2} and "Traceback" not in said and len(said.splitlines()) <= 2, done
    assert set(read_queue().jobs) == set(jobs.values())
