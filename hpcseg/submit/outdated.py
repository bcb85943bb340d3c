"""What a job profile says now, and said when the jobs were submitted that are still in the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from hpcseg.runs.states import States
from hpcseg.submit.profile import SlurmProfile
from hpcseg.text import counted

_WAITING = {"queued", "held", "requeued"}
_SHOWN = 3  # keys


def changed_since(found: States, profile: SlurmProfile, taken: Collection[str] = ()) -> str:
    """In a line: how many waiting jobs an earlier profile asked for, in what it differs, and what to do. "": none."""
    runs, keys, anew = 0, Counter[str](), set(taken)
    for run_id, verdict in found.verdicts.items():
        array = found.evidence[run_id].array
        if run_id in anew or verdict.state not in _WAITING or array is None or not array.profile:
            continue
        changes = differences(array.profile, profile.asks(array.stage))
        runs += bool(changes)
        keys.update(changes)
    if not runs:
        return ""
    shown = ", ".join(key for key, _ in keys.most_common(_SHOWN)) + (", …" if len(keys) > _SHOWN else "")
    return (
        f"{counted(runs, 'waiting job')} asked for what the profile said before ({shown}); "
        "hpcseg cancel and then the same command ask anew"
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two profiles, as `key before → now`. Pure.

    >>> differences({"slurm.train.time": 60, "slurm.account": ""}, {"slurm.train.time": 90, "slurm.account": ""})
    ['slurm.train.time 60 → 90']
    """
    return [
        f"{key} {before.get(key)} → {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
