"""What is asked of Slurm: to take jobs, to cancel them, whether it is there, and how large an array may be."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hpcseg.errors import SchedulerError
from hpcseg.slurm.calls import CallError, call
from hpcseg.slurm.queue import Cluster, expression_of

MAX_ARRAY_SIZE = 1001  # Slurm's own default
SBATCH_TIMEOUT_S = 60.0
SCANCEL_TIMEOUT_S = 120.0
JOBS_PER_CALL = 1000  # some 10 bytes each; a command line takes much more
_OVER = ("already completing or completed", "Invalid job id specified")
# What sbatch says when its request or the answer was lost: the jobs may exist.
_LOST = re.compile(r"timed out|contact|zero bytes|connect|communicat|transmi|protocol", re.IGNORECASE)


def slurm_available(silent: Callable[[str], None] = lambda why: None) -> bool:
    """Whether sbatch is here and a controller answers; where it does not, `silent` is called with the reason."""
    if shutil.which("sbatch") is None:
        return False
    try:
        why = "" if "UP" in call("scontrol", "ping") else "no controller is up"
    except CallError as error:
        why = str(error)
    if why:
        silent(why)
    return not why


def read_cluster() -> Cluster:
    """What Slurm says of itself.

    Raises:
        CallError: scontrol does not answer.
    """
    shown = call("scontrol", "show", "config")
    values = dict(re.findall(r"^(\w+)\s*= (.*)$", shown, re.MULTILINE))
    size = values.get("MaxArraySize", "")
    private = re.split(r"[,\s]+", values.get("PrivateData", "").lower())
    return Cluster(
        name=values.get("ClusterName", ""),
        max_array_size=max(int(size), 1) if size.isdigit() else MAX_ARRAY_SIZE,  # 0: sbatch refuses them, and says so
        shows_others=not {"jobs", "all"} & set(private),
    )


def cluster_for_submission() -> Cluster:
    """The same, for whoever is about to submit.

    Raises:
        SchedulerError: scontrol does not answer, or there is none.
    """
    try:
        return read_cluster()
    except CallError as error:
        if error.failure == "absent":
            raise SchedulerError(
                f"there is no Slurm here ({error}): leave out --on slurm, or log in to the cluster"
            ) from None
        raise SchedulerError(f"scontrol does not answer ({error}); is Slurm up? sinfo shows it") from None


def submit_script(script: Path) -> str:
    """Slurm's id of the job that sbatch makes of a script.

    Raises:
        CallError: nobody heard of an id; `may_exist` says whether there may be a job all the same.
    """
    answer = call("sbatch", "--parsable", str(script), timeout_s=SBATCH_TIMEOUT_S)
    # Sites have sbatch say more than that; a number anywhere else is none.
    found = [match[1] for line in answer.splitlines() if (match := re.fullmatch(r"(\d+)(?:;\S+)?", line.strip()))]
    if len(found) != 1:
        raise CallError("unreadable", f"sbatch said what cannot be read: {answer.strip()[:200]!r}")
    return found[0]


def may_exist(error: CallError) -> bool:
    """Whether the job of an sbatch that failed so may exist all the same. Pure."""
    if error.failure == "refused":
        return _LOST.search(str(error)) is not None
    return error.failure != "absent"


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Cancel Slurm jobs, in few calls; those that are over already are no error.

    Raises:
        SchedulerError: scancel failed, or did not answer.
    """
    names = compact(jobs)
    for start in range(0, len(names), JOBS_PER_CALL):
        chunk = names[start : start + JOBS_PER_CALL]
        try:
            call("scancel", *chunk, timeout_s=SCANCEL_TIMEOUT_S)
        except CallError as error:
            what = str(error)
            if error.failure == "refused":
                lines = [line for line in error.lines if not any(words in line for words in _OVER)]
                if not lines:
                    continue
                what = f"scancel failed: {lines[-1]}"
            few = " ".join(chunk[:3]) + (" …" if len(chunk) > 3 else "")
            raise SchedulerError(f"{what}; the jobs {few} may still run: cancel again") from None


def compact(jobs: Iterable[str]) -> list[str]:
    """The same jobs with tasks of one array in one. Pure.

    >>> compact(["7_1", "7_2", "9", "7_3", "7_5"])
    ['9', '7_[1-3,5]']
    """
    tasks: dict[str, set[int]] = {}
    single: dict[str, None] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        if task.isdigit():
            tasks.setdefault(array, set()).add(int(task))
        else:
            single[job] = None
    return [*single, *(f"{array}_[{expression_of(those)}]" for array, those in tasks.items())]
