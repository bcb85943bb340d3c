"""How values of job profiles are written: time limits, flags of sbatch, texts that go into a batch script's head."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

# Flags of sbatch that say which jobs there are, what they wait for, where they write and how they are warned.
OWN_FLAGS = frozenset({"array", "dependency", "error", "job-name", "open-mode", "output", "signal", "wait", "wrap"})
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})$")


def _minutes(value: Any) -> Any:
    """Slurm's notations of a time limit, in minutes: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = _TIME.match(value) if isinstance(value, str) else None
    if match is None:
        if isinstance(value, str):
            raise ValueError(f"{value!r} is no time limit; write minutes, 'HH:MM:SS' or 'D-HH:MM:SS'")
        return value
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = parts + [0] * (3 - len(parts))
        return int(match["days"]) * 1440 + hours * 60 + minutes + (seconds > 0)
    if len(parts) == 3:
        return parts[0] * 60 + parts[1] + (parts[2] > 0)
    return parts[0] + (len(parts) == 2 and parts[1] > 0)


Minutes = Annotated[int, BeforeValidator(_minutes), Field(ge=1)]


def _one_line(text: str) -> str:
    """A text of a batch script's head, where a line break would end the line and begin a command."""
    if not text.isprintable():
        raise ValueError(f"{text!r} has a line break or another sign that cannot be printed; remove it")
    return text


Line = Annotated[str, AfterValidator(_one_line)]


def _checked_flags(flags: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Flags of sbatch by name without dashes in front; those that say which jobs there are cannot be set."""
    checked = {name.lstrip("-").replace("_", "-"): value for name, value in flags.items()}
    for name, value in checked.items():
        if name in OWN_FLAGS:
            raise ValueError(f"'{name}' is set by hpcseg itself; remove it")
        if not _FLAG.fullmatch(name):
            raise ValueError(f"{name!r} is no flag of sbatch")
        _one_line(str(value))
    return checked


Flags = Annotated[dict[str, str | int | bool], AfterValidator(_checked_flags)]
