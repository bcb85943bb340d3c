"""A job's sign of life, `heartbeat.json`, and whether the process that wrote it is there."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import Literal

from hpcseg.errors import BadInput
from hpcseg.files import read_json
from hpcseg.paths import HEARTBEAT_FILE

HeartbeatState = Literal["running", "stopped", "done", "failed"]


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """What a job last said about itself; `eta_s` counts to the end of `phase`, `time` is Unix seconds.

    `checkpoint` says what saving costs (see `Control.saved`), for whoever has to warn the job in time. `progress` is
    the work that no later attempt has to do again (see `Control.reached`), `progress_time` when the last was done.
    """

    state: HeartbeatState
    phase: str
    step: int
    steps: int
    epoch: int
    loss: float | None
    eta_s: float | None
    time: float
    host: str
    pid: int
    pid_start: float
    attempt: int
    checkpoint: dict[str, float] | None = None
    progress: int = 0
    progress_time: float | None = None

    @property
    def alive(self) -> bool | None:
        """Whether the process that wrote it still runs; None where that cannot be known from this host."""
        if self.host != socket.gethostname():
            return None
        return is_alive(self.pid, self.pid_start)


def read_heartbeat(run: Path) -> Heartbeat | None:
    """Heartbeat of the run directory `run`; None before the first one, and where a power cut left an empty file.

    Raises:
        BadInput: the file is there and is not a heartbeat.
    """
    path = run / HEARTBEAT_FILE
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        return Heartbeat(**read_json(path))
    except TypeError as error:
        raise BadInput(f"{path}: not a heartbeat ({error}); remove the file") from None


def process_start(pid: int) -> float | None:
    """Seconds from boot to the start of process `pid`; None if there is no such process.

    With the pid it names a process for good, though pids are used again. 0.0 on systems without /proc.
    """
    if not Path("/proc/self/stat").exists():
        return 0.0 if _exists(pid) else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in {"Z", "X"}:
        return None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int, started: float) -> bool:
    """Whether process `pid` of this host is still the one that began at `started` (see `process_start`)."""
    return process_start(pid) == started


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
