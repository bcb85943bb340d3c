"""Local jobs: a pool of slots, in the foreground or detached (hpcseg.submit.detach), each running one submitit process
at a time.

The pool starts a run when everything that it needs is done. Its jobs are not in the terminal's reach: Ctrl-C and
hang-up go to the pool alone, which asks each job to save and stop (SIGTERM). Should the pool be killed, its jobs notice
within seconds, save and stop by themselves (hpcseg.jobs.entry).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from hpcseg.errors import HpcsegError, Interrupted
from hpcseg.heartbeat import Heartbeat
from hpcseg.jobs.entry import run_stage
from hpcseg.owners import private_folder
from hpcseg.runs.evidence import OPEN, TO_SUBMIT, State, Verdict
from hpcseg.runs.records import Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.study.plan import Plan
from hpcseg.submit.profile import LocalProfile
from hpcseg.text import word

POLL_S = 0.25
ELSEWHERE_POLL_S = 2.0
UNKNOWN_WAIT_S = 300.0  # for what nobody can tell the state of
SAVE_WAIT_S = 300.0  # for jobs that were asked to stop: a step and a save
NO_TIMEOUT_MIN = 60 * 24 * 365
_DEAD_ENDS: frozenset[State] = frozenset({"failed", "blocked", "lost", "stopped"})
Claim = Callable[[list[str]], list[str]]
Claimed = Callable[[list[str]], None]


@dataclass(frozen=True)
class Event:
    """News of one run: its state changed, or its heartbeat did."""

    run_id: str
    stage: str
    state: State
    message: str = ""
    heartbeat: Heartbeat | None = None


Notify = Callable[[Event], None]


@dataclass
class _Job:
    """A started run: submitit's job, and the slot that it holds."""

    job: Any
    slot: int
    beat: float = 0.0


@dataclass
class Pool:
    """Runs the stages of a plan that this process holds, and waits for those that others hold.

    Args:
        plan: all stages.
        profile: says how many at once, with everything resolved.
        gpus: names of the GPUs that slots are given in turn; none on a host without.
        claim: takes the runs that nobody works on for this process, and returns those that it got.
        notify: called with every change.
        claimed: called once, with the runs that the pool got at its start.

    Attributes:
        taken: runs that the pool got.
    """

    plan: Plan
    profile: LocalProfile
    gpus: list[str]
    claim: Claim
    notify: Notify
    claimed: Claimed
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    _mine: set[str] = field(default_factory=set)
    _jobs: dict[str, _Job] = field(default_factory=dict)
    _looked: float = 0.0
    _stuck_since: float | None = None
    _slurm_is_silent: bool = False

    def run(self) -> dict[str, Verdict]:
        """Run until nothing is left that can be run; how every stage ended, by id.

        Raises:
            Interrupted: Ctrl-C, SIGTERM or hang-up; the jobs have saved, or are about to.
        """
        with _stop_requests() as requests:
            try:
                for run_id, planned in self.plan.stages.items():
                    self._set(run_id, planned.verdict)
                self._take([run_id for run_id, planned in self.plan.stages.items() if planned.verdict.state != "done"])
                self.claimed([run_id for run_id in self.plan.stages if run_id in self._mine])
                while not requests and self._open():
                    self._follow_jobs()
                    self._follow_others()
                    self._start_ready()
                    time.sleep(POLL_S)
                if requests:
                    self._stop_jobs(requests)
            finally:
                self._release()
        for run_id, verdict in self.verdicts.items():
            if verdict.state == "unknown":
                self._set(run_id, replace(verdict, state="blocked"))
            elif verdict.state == "queued":
                self._set(run_id, Verdict("blocked", "it is not known whether what it needs is under way"))
        return self.verdicts

    def _open(self) -> bool:
        """Whether anything may still go on: what is unknown may, and what waits for it; on another host for a while."""
        theirs = {verdict.state for run_id, verdict in self.verdicts.items() if run_id not in self._mine} & OPEN
        if self._jobs or theirs - {"unknown"} or "unknown" not in theirs:
            self._stuck_since = None
            return bool(self._jobs) or any(v.state in OPEN for v in self.verdicts.values())
        self._stuck_since = self._stuck_since or time.monotonic()
        return self._slurm_is_silent or time.monotonic() - self._stuck_since < UNKNOWN_WAIT_S

    def _release(self) -> None:
        """Let go of what was not begun: whoever comes next, on whichever host, may take it."""
        for run_id in self._mine - self._jobs.keys():
            self._mine.discard(run_id)
            if self.verdicts[run_id].state in {"queued", "blocked", "lost"}:
                with suppress(HpcsegError, OSError):  # then the next one on this host takes it, as after a crash
                    _noted(self.plan.run(run_id), released=True)

    def _take(self, run_ids: list[str]) -> None:
        """Claim what nobody works on; the rest is looked at again."""
        taken = dict.fromkeys(self.claim(run_ids))
        self.taken += taken
        self._mine.update(taken)
        for run_id in taken:
            self._set(run_id, Verdict("queued", "waits for a slot"))
        self._look([run_id for run_id in run_ids if run_id not in taken])

    def _look(self, run_ids: list[str]) -> None:
        found = read_states([self.plan.run(run_id) for run_id in run_ids])
        self._slurm_is_silent = found.queue.silent
        for run_id, verdict in found.verdicts.items():
            self._set(run_id, verdict)

    def _follow_jobs(self) -> None:
        for run_id, held in list(self._jobs.items()):
            run = self.plan.run(run_id)
            if held.job.done():
                del self._jobs[run_id]
                self._close(run)
                continue
            heartbeat = run.heartbeat()
            if heartbeat is not None and heartbeat.time != held.beat and heartbeat.alive:
                held.beat = heartbeat.time
                self.notify(Event(run_id, run.stage, "running", heartbeat=heartbeat))

    def _close(self, run: RunDir) -> None:
        """The process of a run has ended: with what?"""
        verdict = read_states([run]).verdicts[run.id]
        if verdict.state in {"running", "stalled", "unknown"}:  # submitit's controller was killed, the job was not
            self._mine.discard(run.id)
        elif verdict.state == "queued":
            verdict = Verdict("lost", f"its process ended before it began; see {run.newest_log() or run.log}")
        self._set(run.id, verdict)

    def _follow_others(self) -> None:
        """Look after the runs that another process or Slurm holds; take over what was left."""
        if time.monotonic() - self._looked < ELSEWHERE_POLL_S:
            return
        self._looked = time.monotonic()
        others = [i for i, verdict in self.verdicts.items() if verdict.state in OPEN and i not in self._mine]
        if others:
            self._look(others)
            left = [run_id for run_id in others if self.verdicts[run_id].state in TO_SUBMIT - {"failed"}]
            left = [run_id for run_id in left if not self._is_cancelled(run_id)]
            if left:
                self._take(left)

    def _is_cancelled(self, run_id: str) -> bool:
        submission = self.plan.run(run_id).submission()
        return submission is not None and submission.cancelled is not None

    def _start_ready(self) -> None:
        for run_id, planned in self.plan.stages.items():
            if run_id not in self._mine or self.verdicts[run_id].state != "queued":
                continue
            dead = [need for need in planned.needs if self.verdicts[need].state in _DEAD_ENDS]
            if dead:
                self._set(run_id, Verdict("blocked", f"{dead[0]}: {self.verdicts[dead[0]].why}"))
            elif len(self._jobs) < self.profile.slots and all(self._is_done(need) for need in planned.needs):
                self._start(self.plan.run(run_id))

    def _is_done(self, run_id: str) -> bool:
        return self.verdicts[run_id].state == "done"

    def _start(self, run: RunDir) -> None:
        slot = min(set(range(self.profile.slots)) - {held.slot for held in self._jobs.values()})
        submission = _noted(run, gpus=self.profile.gpus_of(slot, self.gpus))
        if submission is None or submission.cancelled is not None:
            self._set(run.id, Verdict("stopped", "cancelled before it began"))
            return
        if submission.pool != Process.this():  # cancelled, and claimed by another pool since
            self._mine.discard(run.id)
            return
        import submitit
        from submitit.core.utils import environment_variables

        class Executor(submitit.LocalExecutor):
            """Its jobs look at what they load before they load it."""

            @property
            def _submitit_command_str(self) -> str:
                return f"{self.python} -P -u -m hpcseg.jobs.start {word(self.folder)}"

        private_folder(run.log)
        executor = Executor(folder=run.log)
        executor.update_parameters(timeout_min=NO_TIMEOUT_MIN, tasks_per_node=submission.ranks)
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), submission.threads)
        variables["PYTHONSAFEPATH"] = 1  # submitit's process finds no modules in the folder that the pool began in
        with _out_of_the_terminals_reach(), environment_variables(**variables):
            job = executor.submit(run_stage, str(run.path))
        self._jobs[run.id] = _Job(job, slot)
        _noted(run, job_id=job.job_id)
        self._set(run.id, Verdict("running", f"process {job.job_id}"))

    def _stop_jobs(self, requests: list[int]) -> None:
        """Ask every job to save and stop, and wait for them; a second request ends the waiting."""
        first = len(requests)
        self._ask_to_stop()
        self._release()  # before the waiting, which somebody may cut short
        until = time.monotonic() + SAVE_WAIT_S
        while self._jobs and time.monotonic() < until and len(requests) == first:
            self._ask_to_stop()  # again and again: a job that has only just begun does not listen yet
            time.sleep(2 * POLL_S)
            self._follow_jobs()
        left = f"; {len(self._jobs)} still save, see hpcseg status" if self._jobs else ""
        raise Interrupted(f"stopped{left}; the same command goes on from there")

    def _ask_to_stop(self) -> None:
        for held in self._jobs.values():
            with suppress(ProcessLookupError):
                os.kill(int(held.job.job_id), signal.SIGTERM)

    def _set(self, run_id: str, verdict: Verdict) -> None:
        if self.verdicts.get(run_id) != verdict:
            self.verdicts[run_id] = verdict
            self.notify(Event(run_id, self.plan.stages[run_id].spec.stage, verdict.state, verdict.why))


def _noted(run: RunDir, **facts: str | bool) -> Submission | None:
    """`job.json`, with these facts where the run is this process' own."""
    return run.change_submission(
        lambda known: known.model_copy(update=facts) if known.pool == Process.this() else known
    )


def visible_gpus() -> list[str]:
    """GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver without a device
        return []
    return answer.stdout.split()


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and hang-up instead of dying of them; only the main thread can."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def collect(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, collect) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _out_of_the_terminals_reach() -> Iterator[None]:
    """Processes started here inherit a mask that keeps Ctrl-C and hang-up from them."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
