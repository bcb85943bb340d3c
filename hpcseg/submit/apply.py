"""Doing what a plan says. Idempotent: finished and running runs are left alone, new and failed ones are submitted.

A lock on the folder of all runs, and the submission written before anything starts, keep two `hpcseg sweep` from
submitting a run twice.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from hpcseg.errors import BadInput
from hpcseg.host import memory_gib, usable_cores
from hpcseg.owners import require_own_ways
from hpcseg.runs.evidence import TO_SUBMIT, Verdict
from hpcseg.runs.locks import locked
from hpcseg.runs.records import Process, Submission
from hpcseg.runs.states import NOT_ASKED, States, read_states
from hpcseg.slurm.commands import cancel_jobs, cluster_for_submission, slurm_available
from hpcseg.spec import PackSpec
from hpcseg.study.plan import Plan
from hpcseg.submit.adoption import abandoned, adopt_or_give_up
from hpcseg.submit.arrange import Backend, arrays_of, choose, needs_of
from hpcseg.submit.outdated import changed_since
from hpcseg.submit.profile import LocalProfile, Profile, SlurmProfile, resolve
from hpcseg.submit.record import record, write_intents, written_folders
from hpcseg.submit.slots import Claimed, Notify, Pool, visible_gpus
from hpcseg.text import counted
from hpcseg.training.loggers import require_loggers
from hpcseg.training.strategy import check_shares

ENDING_WAIT_S = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What applying a plan did.

    Attributes:
        submitted: runs that this call submitted.
        verdicts: how every run of the plan stands at the end (Slurm: right after submission).
        waiting: (Slurm) runs that could not be submitted yet, and why.
        silence: (Slurm) why squeue gave no answer where it was asked.
    """

    submitted: tuple[str, ...]
    verdicts: dict[str, Verdict]
    waiting: dict[str, str] = field(default_factory=dict)
    silence: str = ""

    @property
    def failed(self) -> dict[str, str]:
        """Runs that did not get to their end, and why."""
        return {i: v.why for i, v in self.verdicts.items() if v.state in {"failed", "lost", "blocked", "stopped"}}


def choose_backend(on: Literal["auto", "local", "slurm"], note: Callable[[str], None] = lambda line: None) -> Backend:
    """`auto`: Slurm where sbatch is installed and a controller answers, else this host; `note` is told if none does."""

    def silent(why: str) -> None:
        note(f"Slurm is here and does not answer ({why}); so this machine computes; --on slurm refuses")

    if on == "auto":
        return "slurm" if slurm_available(silent) else "local"
    return on


def _ignore(_: object) -> None:
    pass


def apply(
    plan: Plan,
    on: Backend,
    profile: Profile,
    notify: Notify = _ignore,
    claimed: Claimed = _ignore,
    say: Say = _ignore,
) -> Outcome:
    """Submit what the plan lacks. `local` returns when everything is done, `slurm` when everything is queued.

    `notify` is called with every change, `claimed` (local) with the runs that are submitted at once, `say` (Slurm) with
    what takes time.

    Raises:
        BadInput: others may write in the folder of all runs, or in one below it where something is to be written; a
            scan that is to be packed is bad, the ranks of a job cannot share a run, or (Slurm) the folder of all runs
            has a name that a batch script cannot hold; nothing is written.
        Interrupted: (local) stopped by Ctrl-C or a signal, after the jobs saved.
        SchedulerError: (Slurm) an array was refused, or Slurm does not answer; in the latter case nothing is written.
        HpcsegError: another process holds the lock for too long.
    """
    require_own_ways(plan.runs_root, written_folders(plan))
    check_new(plan, profile.slurm.ranks_of if on == "slurm" else profile.local.ranks_of)
    if on == "slurm" and not str(plan.runs_root).isprintable():
        raise BadInput(
            f"{str(plan.runs_root)!r}: no batch script can name a folder with a line break; choose other --runs"
        )
    if on == "slurm":
        return _apply_slurm(plan, profile.slurm, say)
    with locked(plan.runs_root):
        record(plan)
    local, gpus = resolved_for(plan, profile.local), visible_gpus()

    def take(run_ids: list[str]) -> list[str]:
        return claim(plan, run_ids, lambda stage: _local_submission(local, stage))

    pool = Pool(plan, local, gpus, take, notify, claimed)
    verdicts = pool.run()
    return Outcome(tuple(pool.taken), verdicts)


def resolved_for(plan: Plan, profile: LocalProfile) -> LocalProfile:
    """The profile of a pool on this machine for `plan`, with everything resolved."""
    return resolve(
        profile,
        runs=len(plan.of_stage("train")),
        packs=len(plan.of_stage("pack")),
        cores=usable_cores(),
        gpus=len(visible_gpus()),
        memory_gib=memory_gib(),
    )


def check_new(plan: Plan, ranks: Callable[[str], int]) -> None:
    """Look at what is to be submitted before anything is written: the headers of all scans that are to be packed, and
    whether every run that is to train can be shared by the ranks that a job of its stage has, and has its loggers.

    Raises:
        BadInput: a scan is bad, the message names the file and the remedy; or see `check_jobs`.
    """
    for spec in (planned.spec for planned in plan.stages.values() if planned.to_submit):
        if isinstance(spec, PackSpec):
            from hpcseg.volumes.packing import check_cases  # takes most of a second

            check_cases(spec)
    check_jobs(plan, ranks)


def check_jobs(plan: Plan, ranks: Callable[[str], int]) -> None:
    """Look whether what is to be submitted can train in its jobs; no scan is read.

    Raises:
        BadInput: a minibatch has fewer patches than there are ranks; or the package of a logger is missing.
    """
    for spec in (planned.spec for planned in plan.stages.values() if planned.to_submit):
        if not isinstance(spec, PackSpec):
            check_shares(spec, ranks(spec.stage))
            require_loggers(spec.config.logging)


def claim(plan: Plan, run_ids: list[str], submission: Callable[[str], Submission]) -> list[str]:
    """Take those of `run_ids` that nobody works on: write what they have to do and who does it; returns their ids.

    `submission` says who does the runs of a stage.
    """
    with locked(plan.runs_root):
        found = read_states(plan.run(run_id) for run_id in run_ids)
        taken = [run_id for run_id in run_ids if found.verdicts[run_id].state in TO_SUBMIT]
        write_intents(plan, found.evidence, {run_id: submission(plan.stages[run_id].stage) for run_id in taken})
    return taken


def _apply_slurm(plan: Plan, profile: SlurmProfile, say: Say) -> Outcome:
    from hpcseg.submit import arrays  # imports submitit

    cluster = cluster_for_submission()  # nothing is recorded before it answers
    _let_jobs_end(plan, say)
    with locked(plan.runs_root):
        record(plan)
        found = _look_again(plan)
        choice = choose(needs_of(plan), found.verdicts)
        cancel_jobs([job for run_id in choice.taken if (job := found.verdicts[run_id].job) in found.queue.jobs])
        jobs: dict[str, str] = {}
        if choice.taken:
            arranged = arrays_of(plan, choice, profile, cluster.max_array_size)
            jobs = arrays.submit(plan, arranged, profile, found.evidence, cluster.name)
        if words := changed_since(found, profile, choice.taken):
            say(words)
    after = {run_id: Verdict("queued", f"Slurm job {job}", job=job) for run_id, job in jobs.items()}
    silence = "" if found.queue is NOT_ASKED else found.queue.error
    return Outcome(choice.taken, found.verdicts | after, choice.waiting, silence)


def _look_again(plan: Plan) -> States:
    """How the runs of a plan stand now; arrays that nobody has confirmed are adopted or given up before."""
    runs = [plan.run(run_id) for run_id in plan.stages]
    found = read_states(runs, needs_of(plan))
    arrays = {e.array.tag: e.array for e in found.evidence.values() if e.array is not None and not e.done}
    if any(abandoned(record, time.time()) for record in arrays.values()):
        adopt_or_give_up(plan.runs_root, arrays.values())
        found = read_states(runs, needs_of(plan))
    return found


def _let_jobs_end(plan: Plan, say: Say) -> None:
    """Wait for jobs that are just ending: whether their runs are to be submitted again shows only then."""
    ending = [run_id for run_id, planned in plan.stages.items() if planned.verdict.ending]
    until = time.monotonic() + ENDING_WAIT_S
    if ending:
        say(f"just ending (COMPLETING): {counted(len(ending), 'job')}; waits for them")
    while ending and time.monotonic() < until:
        time.sleep(1.0)
        verdicts = read_states(plan.run(run_id) for run_id in ending).verdicts
        ending = [run_id for run_id in ending if verdicts[run_id].ending]


def _local_submission(profile: LocalProfile, stage: str) -> Submission:
    return Submission(
        backend="local",
        submitted=time.time(),
        host=socket.gethostname(),
        pool=Process.this(),
        threads=profile.threads,
        ranks=profile.ranks_of(stage),
        workers=profile.pack_workers,
        reading=profile.reading,
        kernels=profile.kernels,
    )
