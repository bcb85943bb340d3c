"""A job's sign of life, `heartbeat.json`, and whether the process that wrote it is there."""

from __future__ import annotations

import dataclasses
import functools
import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, with_config

from hpcseg.errors import BadInput
from hpcseg.files import leave_out
from hpcseg.host import is_alive
from hpcseg.paths import HEARTBEAT_FILE
from hpcseg.seals import read_sealed
from hpcseg.text import in_words

HeartbeatState = Literal["running", "stopped", "done", "failed"]


Moment = Annotated[float, Field(ge=0, lt=1e11)]  # Unix seconds that a calendar has


@with_config(ConfigDict(extra="forbid"))
@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """What a job last said about itself; `eta_s` counts to the end of `phase`, `time` is Unix seconds.

    `checkpoint` says what saving costs (see `Control.saved`), for whoever has to warn the job in time. `progress` is
    the work that no later attempt has to do again (see `Control.reached`), `progress_time` when the last was done.
    `dice` is that of the last epoch's validation minibatches, `dsc` the mean over the volumes that were measured.
    """

    state: HeartbeatState
    phase: str
    step: int
    steps: int
    epoch: int
    loss: FiniteFloat | None
    eta_s: FiniteFloat | None
    time: Moment
    host: str
    pid: int
    pid_start: FiniteFloat
    attempt: int
    checkpoint: dict[str, float] | None = None
    progress: int = 0
    progress_time: Moment | None = None
    dice: FiniteFloat | None = None
    dsc: FiniteFloat | None = None

    @property
    def alive(self) -> bool | None:
        """Whether the process that wrote it still runs; None where that cannot be known from this host."""
        if self.host != socket.gethostname():
            return None
        return is_alive(self.pid, self.pid_start)


@functools.cache
def _adapter() -> TypeAdapter[Heartbeat]:
    return TypeAdapter(Heartbeat)


def read_heartbeat(run: Path) -> Heartbeat | None:
    """Heartbeat of the run directory `run`; None before the first one, and where a power cut left an empty file.

    Raises:
        BadInput: the file is there and is not a heartbeat.
    """
    path = f"{run}/{HEARTBEAT_FILE}"
    try:
        value = read_sealed(path, optional=True)
        return None if value is None else _adapter().validate_python(value)
    except BadInput:
        if os.stat(path).st_size == 0:  # noqa: PTH116
            leave_out(f"{path}: is empty")
            return None
        raise
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'content'}: {in_words(first)}"
        raise BadInput(f"{path}: not a heartbeat ({what}); remove the file") from None
