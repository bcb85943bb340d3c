"""Faults that befall a study while it is computed, or between two calls of hpcseg; drawn at random, repeatable."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.runs.rundir import RunDir, find_runs
from tests.forked import Command, begin

YEAR_S = 365 * 86_400.0
SLOTS = 2
DISK = "size=48m,nr_inodes=20000"
_JUMPS_S = (0.0, 0.0, -3 * YEAR_S, -900.0, -20.0, 20.0, 900.0, 3 * YEAR_S)


@dataclass
class Study:
    """A sweep file, its data and its runs, all of which may be moved; and what happened to it.

    Attributes:
        folder: holds everything; `folder / "disk"` is a disk of its own where that can be had.
        happened: faults, in their order.
        unwritten: how many attempts may have ended without a word: killed, or on a disk too full to write that down.
    """

    folder: Path
    draw: random.Random
    own_disk: bool
    visit: Callable[[Path], None] | None = None  # of a second user
    data: Path = field(init=False)
    runs: Path = field(init=False)
    happened: list[str] = field(default_factory=list)
    unwritten: int = 0
    _calls: int = 0

    def __post_init__(self) -> None:
        self.data, self.runs = self.folder / "data", self.folder / "disk" / "runs"

    def call(self, *arguments: Any, clock_s: float = 0.0) -> Command:
        """Begin a command of hpcseg about this study."""
        self._calls += 1
        return begin(self.folder / f"output-{self._calls}", *arguments, "--runs", self.runs, clock_s=clock_s)

    def sweep(self, clock_s: float = 0.0) -> Command:
        """Begin the command that computes the study."""
        places = ("--data", self.data, "--jobs", self.folder / "two.toml")
        return self.call("sweep", self.folder / "study.toml", "--on", "local", *places, clock_s=clock_s)

    def disturbed(self) -> None:
        """The same command, with a fault before it or while it runs."""
        draw = self.draw
        if draw.random() < 0.5:
            self._inflict(draw.choice([self.move_runs, self.move_data, self.touch]))
        clock_s = draw.choice(_JUMPS_S)
        if clock_s:
            self.happened.append(f"clock {clock_s:+.0f} s")
        command = self.sweep(clock_s)
        faults = [self.kill_pool, self.kill_job, self.kill_both, self.stop_pool, self.kill_reader]
        faults += [self.fill_disk] * 2 if self.own_disk else []
        faults += [self.have_a_visitor] if self.visit is not None else []
        time.sleep(draw.uniform(0, 1.5))
        self._inflict(draw.choice(faults), command)
        if command.process.is_alive() and draw.random() < 0.5:
            time.sleep(draw.uniform(0, 1.5))
            self.kill_pool(command)
        began = time.monotonic()
        self.happened.append(f"-> {command.wait()} after {time.monotonic() - began:.0f} s")

    def _inflict(self, fault: Callable[..., None], *arguments: Command) -> None:
        self.happened.append(fault.__name__)
        fault(*arguments)

    def kill_pool(self, command: Command) -> None:
        """`kill -9` of the process that runs the slots."""
        command.kill()

    def kill_job(self, _command: Command) -> None:
        """`kill -9` of a job."""
        working = list(self.working())
        if working:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.draw.choice(working), signal.SIGKILL)
                self.unwritten += 1

    def kill_both(self, command: Command) -> None:
        """`kill -9` of all that runs."""
        command.kill()
        for pid in self.working():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.unwritten += 1

    def stop_pool(self, command: Command) -> None:
        """A request to end, as by Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(command.pid, signal.SIGTERM)

    def kill_reader(self, _command: Command) -> None:
        """`kill -9` of a command that reads what there is, and writes results."""
        reader = self.call(*self.draw.choice([("collect", "--no-figures"), ("report",), ("status",)]))
        time.sleep(self.draw.uniform(0, 1.0))
        reader.kill()

    def fill_disk(self, command: Command) -> None:
        """No more room but for some kilobytes, until the command ends or a while has passed."""
        there = os.statvfs(self.runs.parent)
        room = there.f_bavail * there.f_frsize - self.draw.randrange(0, 200_000)
        ballast = self.runs.parent / "ballast"
        self.unwritten += SLOTS
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(room, 1))
        command.process.join(self.draw.uniform(0.5, 3.0))
        ballast.unlink(missing_ok=True)

    def have_a_visitor(self, _command: Command) -> None:
        """Another user looks at the runs, and tries to take part."""
        assert self.visit is not None
        self.visit(self.runs)

    def move_runs(self) -> None:
        """The folder of runs is renamed, once its jobs have noticed that their pool is gone."""
        while any(True for _ in self.working()):
            time.sleep(0.1)
        to = self.runs.with_name(f"runs-{self._calls}")
        if self.runs.exists():
            self.runs.rename(to)
            self.runs = to

    def move_data(self) -> None:
        """The folder of data is renamed, likewise."""
        while any(True for _ in self.working()):
            time.sleep(0.1)
        to = self.data.with_name(f"data-{self._calls}")
        self.data.rename(to)
        self.data = to

    def touch(self) -> None:
        """Some files get times from the past or the future."""
        files = [path for folder in (self.runs, self.data) for path in folder.rglob("*") if path.is_file()]
        for path in self.draw.sample(sorted(files), min(len(files), 20)):
            moment = time.time() + self.draw.choice([-3 * YEAR_S, -30.0, 30.0, 3 * YEAR_S])
            os.utime(path, (moment, moment))

    def working(self) -> Iterator[int]:
        """Processes that work on runs."""
        for run in find_runs(self.runs):
            with contextlib.suppress(Exception):
                beat = run.heartbeat()
                if beat is not None and beat.state == "running" and beat.alive:
                    yield beat.pid

    def finish(self, calls: int = 8) -> None:
        """The same command, without faults, until all is done."""
        said = ""
        for _ in range(calls):
            command = self.sweep()
            if command.wait() == 0:
                return
            said += command.text
        raise AssertionError(f"not done after {calls} calls: {said}")

    def dirs(self) -> dict[str, RunDir]:
        """All runs, by stage and id."""
        return {f"{run.stage}/{run.id}": run for run in find_runs(self.runs)}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 48 MB, mounted at a folder; False where mounting is not allowed, and the folder is as any."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", DISK, "hpcseg-test", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Meanwhile no file of this process grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
