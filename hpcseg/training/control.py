"""How a running job is watched and asked to stop: its heartbeat, and a flag that training looks at between steps.

    heartbeat.json = {"state", "phase", "step", "steps", "epoch", "loss", "eta_s",
                      "time", "host", "pid", "pid_start", "attempt",
                      "dice", "dsc", "checkpoint": null or {"saves", "seconds", "last_seconds", "bytes", "time"},
                      "progress", "progress_time"}

Knows nothing of schedulers: whoever installs signal handlers calls `ask_to_stop`.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from hpcseg.errors import Interrupted
from hpcseg.files import write_unsynced
from hpcseg.heartbeat import Heartbeat, HeartbeatState, read_heartbeat
from hpcseg.host import process_start
from hpcseg.paths import HEARTBEAT_FILE
from hpcseg.seals import sealed_text


class Control:
    """The line between one job and those who watch it.

    Args:
        run_dir: where the heartbeat is written.
        attempt: how many times the run was started, this time included; by default one more than the last heartbeat's,
            which also says what saving cost so far.
        interval_s: shortest time between two heartbeats of the same phase.
        on_beat: called with every heartbeat that is due, for progress bars in the foreground.
        silent: write no heartbeat, for a process that works beside the one which does.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        attempt: int | None = None,
        interval_s: float = 1.0,
        on_beat: Callable[[Heartbeat], None] | None = None,
        silent: bool = False,
    ) -> None:
        self._run = run_dir
        self._interval_s = interval_s
        self._on_beat = on_beat
        self._silent = silent
        self._stop = False
        pid, before = os.getpid(), read_heartbeat(run_dir)
        self._beat = Heartbeat(
            *("running", "", 0, 0, 0, None, None, 0.0),
            host=socket.gethostname(),
            pid=pid,
            pid_start=process_start(pid) or 0.0,
            attempt=attempt if attempt is not None else 1 if before is None else before.attempt + 1,
            checkpoint=None if before is None else before.checkpoint,
            progress=0 if before is None else before.progress,
        )
        self._longest_step_s = 0.0
        self._step_began: float | None = None
        self._can_write = True
        self._phase_began = (0.0, 0)  # monotonic time and step of the phase's first beat in this process
        self._due = 0.0

    @property
    def attempt(self) -> int:
        """How many times the run was started, this time included."""
        return self._beat.attempt

    @property
    def checkpoint(self) -> dict[str, float] | None:
        """What saving cost in all attempts; see `saved`."""
        return self._beat.checkpoint

    def saved(self, seconds: float, size: int) -> None:
        """Note what one save of a checkpoint cost, for the next heartbeat.

        It says how many `saves` there were, the `seconds` of the longest and of the last one, the `bytes` of the
        largest, and the `time` (Unix) of the last.
        """
        before = self._beat.checkpoint or {"saves": 0, "seconds": 0.0, "bytes": 0}
        cost = {
            "saves": before["saves"] + 1,
            "seconds": round(max(before["seconds"], seconds), 4),
            "last_seconds": round(seconds, 4),
            "bytes": max(before["bytes"], size),
            "time": round(time.time(), 3),
        }
        self._beat = replace(self._beat, checkpoint=cost)

    @property
    def progress(self) -> int:
        """Work that is done for good, in all attempts; comparable between attempts of one run alone."""
        return self._beat.progress

    @property
    def progress_time(self) -> float | None:
        """When this attempt did the last of it, in Unix seconds; None if it did nothing for good yet."""
        return self._beat.progress_time

    def reached(self, progress: int) -> None:
        """Note that `progress` units of work are done, and kept: saved steps, measured scans, packed cases."""
        if progress > self._beat.progress:
            self._beat = replace(self._beat, progress=progress, progress_time=time.time())
            self._due = 0.0

    def begin_anew(self) -> None:
        """Note that all that was done before is gone."""
        self._beat = replace(self._beat, progress=0, progress_time=None)
        self._due = 0.0

    @property
    def phase(self) -> str:
        """Phase of the last beat; "" before the first."""
        return self._beat.phase

    @property
    def longest_step_s(self) -> float:
        """The longest time between two steps of one phase in this attempt: so long may a request to stop wait."""
        return self._longest_step_s

    @property
    def eta_s(self) -> float | None:
        """Seconds until the phase ends, as of the last beat that was due; None where that is not known."""
        return self._beat.eta_s

    def validated(self, dice: float | None) -> None:
        """Note the mean Dice of an epoch's validation minibatches, for the heartbeats that follow."""
        self._beat = replace(self._beat, dice=dice)

    def measured(self, dsc: float | None) -> None:
        """Note the mean DSC of the volumes that a run was measured on, for the last heartbeat."""
        self._beat = replace(self._beat, dsc=dsc)

    def ask_to_stop(self) -> None:
        """Ask the job to save and stop; only sets a flag, so a signal handler may call it."""
        self._stop = True

    def should_stop(self) -> bool:
        """Whether the job is to save, and raise `Interrupted`, at the end of the current step."""
        return self._stop

    def stop_here(self, what: str = "stopped as asked") -> None:
        """Raise `Interrupted` if the job was asked to stop; for places where nothing has to be saved."""
        if self._stop:
            raise Interrupted(f"{what}; the same command goes on from there")

    def beat(self, *, phase: str, step: int = 0, steps: int = 0, epoch: int = 0, loss: float | None = None) -> None:
        """Say that step `step` of `steps` of `phase` is done; cheap enough for every step.

        A new phase is written at once, other news at most every `interval_s` seconds. A loss that is not finite is
        written as null.
        """
        now = time.monotonic()
        if self._beat.phase != phase:
            self._phase_began = (now, step)
        else:
            if self._step_began is not None:
                self._longest_step_s = max(self._longest_step_s, now - self._step_began)
            if now < self._due:
                self._step_began = now
                return
        self._step_began = now
        self._due = now + self._interval_s
        finite = loss if loss is not None and math.isfinite(loss) else None
        eta_s = self._eta(now, step, steps)
        self._beat = replace(self._beat, phase=phase, step=step, steps=steps, epoch=epoch, loss=finite, eta_s=eta_s)
        self._write()

    def pulse(self) -> None:
        """Say that the job still works on the step of the last beat; for what takes long between two beats."""
        now = time.monotonic()
        if self._beat.phase and now >= self._due:
            self._due = now + self._interval_s
            self._write()

    def close(self, state: HeartbeatState) -> None:
        """Write the last heartbeat, with what was known at the one before."""
        if not self._beat.phase:
            self.beat(phase="start")
        self._beat = replace(self._beat, state=state, eta_s=None)
        self._write()

    def _eta(self, now: float, step: int, steps: int) -> float | None:
        began, first = self._phase_began
        if step <= first or steps <= 0:
            return None
        return (now - began) / (step - first) * max(steps - step, 0)

    def _write(self) -> None:
        heartbeat = self._beat = replace(self._beat, time=time.time())
        if self._silent:
            return
        path = self._run / HEARTBEAT_FILE
        try:  # not synced to disk: a heartbeat lost with the machine was no longer true anyway
            write_unsynced(path, sealed_text(path, json.dumps(asdict(heartbeat))))
            self._can_write = True
        except OSError as error:  # a full disk, for instance: no reason to end a run that may yet get space
            if self._can_write:
                print(f"{path}: cannot be written ({error}); the run goes on", file=sys.stderr)
            self._can_write = False
        if self._on_beat is not None:
            self._on_beat(heartbeat)
