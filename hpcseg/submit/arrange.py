"""Which runs of a plan become which Slurm arrays, and what each array waits for: few arrays, and every run waits for
exactly the unfinished runs that it needs. What `--plan` shows is what submission does.

Runs with the same ancestors share an array that starts after all of them (afterok). Where nearly every run has
ancestors of its own, that would be an array per run: then the ancestors of one run have the same index in their arrays,
and the runs are one array whose tasks each wait for the same task of those (aftercorr).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.evidence import TO_SUBMIT, Verdict
from hpcseg.runs.recovery import Budgets, grown_mb, mebibytes
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.nodes import largest_mb
from hpcseg.slurm.queue import expression_of
from hpcseg.study.order import waves
from hpcseg.study.plan import Plan
from hpcseg.submit.profile import SlurmProfile

Backend = Literal["local", "slurm"]
LONGEST_EXPRESSION = 4000  # signs; of 4,060 sbatch took all, of 4,901 none


@dataclass(frozen=True)
class Choice:
    """What to hand to Slurm.

    Attributes:
        taken: runs to submit, ancestors first.
        jobs: Slurm's ids of the unfinished ancestors that are in the queue already.
        waiting: runs that cannot be submitted yet, and why.
    """

    taken: tuple[str, ...]
    jobs: dict[str, str]
    waiting: dict[str, str]


@dataclass(frozen=True)
class Request:
    """A run to submit.

    Attributes:
        run: its id.
        stage: of it.
        needs: what it waits for: ids of other runs to submit, or Slurm's ids of tasks that were submitted earlier.
        column: runs of one stage with different columns are never in one array (the level of a pretraining).
        memory_mb: of each node; runs that ask for different memory are never in one array.
    """

    run: str
    stage: str
    needs: frozenset[str] = frozenset()
    column: str = ""
    memory_mb: int = 0

    @property
    def kind(self) -> tuple[str, int]:
        """What all runs of an array of a stage have in common."""
        return self.column, self.memory_mb


@dataclass(frozen=True)
class Array:
    """One array to submit.

    Attributes:
        stage: of all its runs.
        runs: by id.
        tasks: index of each run in the array.
        after: what all its tasks wait for: ids of runs (of arrays before it), or Slurm's ids of tasks that were
            submitted earlier.
        same_task_of: arrays before it, by their place in the list, whose task of the same index each task waits for.
        memory_mb: that each of its jobs asks for on each node.
    """

    stage: str
    runs: tuple[str, ...]
    tasks: tuple[int, ...]
    after: tuple[str, ...] = ()
    same_task_of: tuple[int, ...] = ()
    memory_mb: int = 0


def needs_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    """What each run of a plan needs, by id; ancestors come first."""
    return {run_id: planned.needs for run_id, planned in plan.stages.items()}


def choose(needs: Mapping[str, Sequence[str]], verdicts: Mapping[str, Verdict]) -> Choice:
    """Which of the runs (ancestors first) are submitted. Pure.

    A run that waits in the queue for a job which is now replaced is submitted again with it. A run whose ancestor is
    under way outside Slurm, or nobody knows where, waits: Slurm would let it begin at once.
    """
    taken: dict[str, None] = {}
    jobs: dict[str, str] = {}
    waiting: dict[str, str] = {}
    for run_id, ancestors in needs.items():
        state = verdicts[run_id].state
        if state not in TO_SUBMIT and not (state in {"queued", "held"} and any(need in taken for need in ancestors)):
            continue
        for need in ancestors:
            verdict = verdicts[need]
            if verdict.state == "done" or need in taken:
                continue
            if need in waiting or verdict.state == "unknown" or not verdict.job:
                waiting[run_id] = f"needs {need}, which is {verdict.state} ({waiting.get(need, verdict.why)})"
                break
            jobs[need] = verdict.job
        else:
            taken[run_id] = None
    return Choice(tuple(taken), jobs, waiting)


def choose_for(plan: Plan, backend: Backend) -> Choice:
    """What applying a plan submits, as it stands: here whatever nobody works on, to Slurm what `choose` says."""
    if backend == "slurm":
        return choose(needs_of(plan), {run_id: planned.verdict for run_id, planned in plan.stages.items()})
    return Choice(tuple(run_id for run_id, planned in plan.stages.items() if planned.to_submit), {}, {})


def arrays_of(plan: Plan, choice: Choice, profile: SlurmProfile, limit: int) -> list[Array]:
    """The arrays that submit what was chosen, those that others wait for first.

    An ancestor that is in the queue already stands in `Array.after` by its job's id.

    Args:
        plan: holds the runs.
        choice: of its stages.
        profile: says what memory a job asks for; one that used it up before asks for more.
        limit: task indices are below it (Slurm's MaxArraySize).
    """
    names = {**{run_id: run_id for run_id in choice.taken}, **choice.jobs}
    largest = functools.cache(largest_mb)
    requests = []
    for run_id in choice.taken:
        planned = plan.stages[run_id]
        request = Request(
            run=run_id,
            stage=planned.stage,
            needs=frozenset(names[need] for need in planned.needs if need in names),
            column=planned.column,
            memory_mb=_memory_mb(plan.run(run_id), profile, largest),
        )
        requests.append(request)
    return arrange(requests, limit)


def _memory_mb(run: RunDir, profile: SlurmProfile, largest: Callable[[str], int]) -> int:
    """Memory of each node that a run asks for: the profile's, or more than what it used up before, if any node has it
    (a job for which there is no node is refused, and all that is submitted with it)."""
    asked_mb = mebibytes(profile.of(run.stage).memory)
    used_up = [attempt.memory_mb for attempt in read_attempts(run.path) if attempt.cause == "memory"]
    if not max(used_up, default=0):
        return asked_mb
    flags = {**profile.flags, **profile.of(run.stage).flags}
    most_mb = mebibytes(profile.budgets.memory_max) or largest(str(flags.get("partition") or profile.partition))
    return grown_memory_mb(asked_mb, max(used_up), profile.budgets, most_mb)


def grown_memory_mb(asked_mb: int, used_up_mb: int, budgets: Budgets, most_mb: int) -> int:
    """Memory to ask for when a run used up `used_up_mb` before, at most `most_mb` (0: no bound). Pure."""
    return max(asked_mb, grown_mb(used_up_mb, budgets, most_mb))


def arrange(requests: Sequence[Request], limit: int) -> list[Array]:
    """The arrays that submit runs, those that others wait for first. Pure.

    Args:
        requests: ancestors first.
        limit: task indices are below it (Slurm's MaxArraySize).
    """
    arranger = _Arranger(limit, _families(requests))
    for part in waves((request.run, request) for request in requests).values():
        arranger.add(part)
    return arranger.arrays


def _families(requests: Sequence[Request]) -> dict[str, frozenset[str]]:
    """The runs that wait for each run, itself where none does. Ancestors with the same followers are to have the same
    index."""
    followers: dict[str, set[str]] = {request.run: set() for request in requests}
    for request in requests:
        for need in request.needs & followers.keys():
            followers[need].add(request.run)
    return {run: frozenset(found) or frozenset({run}) for run, found in followers.items()}


@dataclass
class _Arranger:
    limit: int
    families: Mapping[str, frozenset[str]]
    arrays: list[Array] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # array and task of each run so far

    def add(self, requests: Sequence[Request]) -> None:
        """Arrange runs of one stage; what they need is arranged already."""
        groups: dict[frozenset[str], list[Request]] = {}
        for request in requests:
            groups.setdefault(request.needs, []).append(request)
        followed, task_of = self._followed(groups)
        alike: dict[tuple[frozenset[str], tuple[int, ...]], list[frozenset[str]]] = {}
        for ancestors in groups:
            corresponding = tuple(sorted(self.places[need][0] for need in ancestors & followed))
            alike.setdefault((ancestors - followed, corresponding), []).append(ancestors)
        for (after, corresponding), members in alike.items():
            layers = _layers([groups[ancestors] for ancestors in members]) if corresponding else []
            if corresponding and len(layers) < sum(1 for a in members for _ in self._lanes(groups[a])):
                for layer in layers:
                    self._append(layer, [task_of[request.needs] for request in layer], after, corresponding)
                continue
            for ancestors in members:
                for lane, tasks in self._lanes(groups[ancestors]):
                    self._append(lane, tasks, ancestors, ())

    def _followed(self, groups: Iterable[frozenset[str]]) -> tuple[set[str], dict[frozenset[str], int]]:
        """Ancestors that tasks of the same index can wait for, and that index for every group of runs.

        The index of a group is that of the ancestors which it alone has; an ancestor of several groups counts where
        all of these have its own index.
        """
        users: dict[str, list[frozenset[str]]] = {}
        for ancestors in groups:
            for need in ancestors & self.places.keys():
                users.setdefault(need, []).append(ancestors)
        task_of = {}
        for ancestors in groups:
            own = [self.places[need] for need in ancestors & users.keys() if len(users[need]) == 1]
            if len({task for _, task in own}) == 1 and len({array for array, _ in own}) == len(own):
                task_of[ancestors] = own[0][1]
        followed: set[str] = set()
        for need, using in users.items():
            if all(task_of.get(ancestors) == self.places[need][1] for ancestors in using):
                followed.add(need)
        return followed, task_of

    def _lanes(self, group: Sequence[Request]) -> Iterator[tuple[list[Request], list[int]]]:
        """Runs with the same ancestors as arrays, with their tasks.

        Each run has the index of its family, the same in all columns, so that whoever follows it may wait for the same
        task of several arrays; families that have several runs of a kind use several arrays, unless one would do.
        """
        numbers: dict[frozenset[str], int] = {}
        kinds: dict[tuple[str, int], list[Request]] = {}
        for request in group:
            numbers.setdefault(self.families[request.run], len(numbers))
            kinds.setdefault(request.kind, []).append(request)
        for requests in kinds.values():
            sizes = Counter(self.families[request.run] for request in requests)
            if 1 < max(sizes.values()) >= len(sizes):
                for start in range(0, len(requests), self.limit):
                    part = requests[start : start + self.limit]
                    yield part, list(range(len(part)))
                continue
            seen: Counter[frozenset[str]] = Counter()
            lanes: dict[tuple[int, int], list[Request]] = {}
            for request in requests:
                family = self.families[request.run]
                lanes.setdefault((seen[family], numbers[family] // self.limit), []).append(request)
                seen[family] += 1
            for lane in lanes.values():
                yield lane, [numbers[self.families[request.run]] % self.limit for request in lane]

    def _append(
        self, requests: list[Request], tasks: list[int], after: Iterable[str], corresponding: tuple[int, ...]
    ) -> None:
        first = requests[0]
        for part in _expressible(tasks):
            chosen = {requests[index].run: tasks[index] for index in part}
            self.places |= {run: (len(self.arrays), task) for run, task in chosen.items()}
            array = Array(
                stage=first.stage,
                runs=tuple(chosen),
                tasks=tuple(chosen.values()),
                after=tuple(sorted(after)),
                same_task_of=corresponding,
                memory_mb=first.memory_mb,
            )
            self.arrays.append(array)


def _layers(groups: Sequence[Sequence[Request]]) -> list[list[Request]]:
    """Runs of all groups, at most one of each in a layer."""
    layers: dict[tuple[tuple[str, int], int], list[Request]] = {}
    for group in groups:
        seen: Counter[tuple[str, int]] = Counter()
        for request in group:
            layers.setdefault((request.kind, seen[request.kind]), []).append(request)
            seen[request.kind] += 1
    return list(layers.values())


def _expressible(tasks: Sequence[int]) -> Iterator[list[int]]:
    """Places in `tasks`, in parts whose tasks sbatch --array takes in one expression."""
    part = list(range(len(tasks)))
    if len(expression_of(tasks)) <= LONGEST_EXPRESSION:
        yield part
        return
    for half in (part[: len(part) // 2], part[len(part) // 2 :]):
        for inner in _expressible([tasks[index] for index in half]):
            yield [half[index] for index in inner]
