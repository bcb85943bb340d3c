from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcseg.errors import HpcsegError
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.study.plan import Plan
from hpcseg.submit.detach import detach as begin
from hpcseg.submit.profile import Profile
from tests.waiting import PATIENCE_S

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
HPCSEG = (sys.executable, "-m", "hpcseg")
Waiter = Callable[..., None]


class Terminal:
    """A terminal with a command as the leader of its session; closing it hangs up on them."""

    def __init__(self, *command: str) -> None:
        self._master, slave = os.openpty()
        self._shell = subprocess.Popen(("setsid", "--ctty", *command), stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)

    def read(self) -> str:
        return os.read(self._master, 10_000).decode()

    def close(self) -> int:
        os.close(self._master)
        return self._shell.wait(PATIENCE_S)


@pytest.fixture
def detach(tmp_path: Path, tiny_dataset: Path) -> Iterator[Callable[..., tuple[str, ...]]]:
    """The command that applies the study, detached; what it started and is still there at the end is killed."""
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "one.toml").write_text("[local]\nslots = 1\nthreads = 1\npack_workers = 1\n")

    def command(*more: str, data: Path = tiny_dataset.parent) -> tuple[str, ...]:
        places = ("--data", str(data), "--runs", str(tmp_path / "runs"), "--jobs", str(tmp_path / "one.toml"))
        return (
            *HPCSEG,
            "sweep",
            str(tmp_path / "study.toml"),
            "--on",
            "local",
            "--detach",
            "--grid",
            "main",
            *places,
            *more,
        )

    yield command
    log = tmp_path / "runs" / "sweeps" / "study" / "pool.log"
    for line in log.read_text().splitlines() if log.exists() else ():
        words = line.split()
        if words[1] == "pool" and is_pool(int(words[2])):
            os.kill(int(words[2]), signal.SIGKILL)


def is_pool(pid: int) -> bool:
    """Whether this pool still runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and b"hpcseg" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def said(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def epoch_of(run: RunDir) -> int:
    heartbeat = run.heartbeat()
    return heartbeat.epoch if heartbeat is not None and heartbeat.state == "running" else 0


def test_a_detached_pool_outlives_its_terminal_and_ends_when_its_sweep_is_cancelled(
    detach: Callable[..., tuple[str, ...]], plan_study: Callable[..., Plan], tmp_path: Path, wait_for: Waiter
) -> None:
    long = ("--set", "training.epochs=100000", "--set", "fold=[0, 1]")
    where = ("--runs", str(tmp_path / "runs"))
    terminal = Terminal("/bin/sh", "-c", '"$@"; exec sleep 1000', "sh", *detach(*long))
    line = ""
    while "stop: hpcseg cancel study" not in line:
        line += terminal.read()
    assert "3 of 3 stages submitted; process" in line
    pid = int(line.partition("process ")[2].split()[0])
    plan = plan_study("training.epochs=100000", "fold=[0, 1]")
    first, second = (plan.run(run_id) for run_id in plan.of_stage("train"))
    wait_for(lambda: epoch_of(first) >= 1)
    assert terminal.close() == -signal.SIGHUP
    seen = epoch_of(first)
    wait_for(lambda: epoch_of(first) > seen + 1)

    again = json.loads(said(*detach(*long), "--json"))
    assert (again["submitted"], again["pools"]) == ([], [str(pid)])
    assert f"nothing to submit; all 3 stages are done or on their way; process {pid}" in said(*detach(*long))
    states = {line["id"]: line["state"] for line in json.loads(said(*HPCSEG, "status", *where, "--json"))}
    assert (states[first.id], states[second.id]) == ("running", "queued")
    said(*HPCSEG, "logs", first.id, *where)

    said(*HPCSEG, "cancel", "study", *where)
    wait_for(lambda: not is_pool(pid))
    assert {verdict.state for verdict in read_states([first, second]).verdicts.values()} == {"stopped"}
    assert list(first.path.glob("checkpoint*")) and second.heartbeat() is None
    log = (tmp_path / "runs" / "sweeps" / "study" / "pool.log").read_text()
    assert f"pool {pid} begins with 3 stages" in log and "2 of 3 stages are not done" in log


def test_a_detached_sweep_with_bad_input_says_so_as_in_the_foreground(
    detach: Callable[..., tuple[str, ...]], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    (data / "labelsTr" / "case_002.nii.gz").write_bytes(b"not a scan")
    answer = subprocess.run(detach(data=data.parent), capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: ") and "case_002.nii.gz" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_a_pool_that_cannot_begin_says_why(
    plan_study: Callable[..., Plan], tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_study()
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(RuntimeError, match=r"Python path configuration"):
        begin(plan, tiny_dataset.parent, Profile())
    monkeypatch.delenv("PYTHONHOME")
    plan.sweep.source.path.unlink()
    with pytest.raises(HpcsegError, match=r"study\.toml") as caught:
        begin(plan, tiny_dataset.parent, Profile())
    assert caught.value.exit_code == 2 and not plan.runs_root.exists()
