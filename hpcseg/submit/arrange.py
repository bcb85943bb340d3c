"""Which runs become which Slurm arrays, and what each array waits for: few arrays, and every run waits for exactly the
unfinished runs that it needs. Pure.

Runs with the same ancestors share an array that starts after all of them (afterok). Where nearly every run has
ancestors of its own, that would be an array per run: then the ancestors of one run have the same index in their arrays,
and the runs are one array whose tasks each wait for the same task of those (aftercorr).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hpcseg.paths import STAGES
from hpcseg.slurm.queue import expression_of

LONGEST_EXPRESSION = 4000  # signs; of 4,060 sbatch took all, of 4,901 none


@dataclass(frozen=True)
class Array:
    """One array to submit.

    Attributes:
        stage: of all its runs.
        runs: by id.
        tasks: index of each run in the array.
        after: what all its tasks wait for: ids of runs (of arrays before it, or unfinished elsewhere), or Slurm's ids
            of tasks that were submitted earlier.
        same_task_of: arrays before it, by their place in the list, whose task of the same index each task waits for.
    """

    stage: str
    runs: tuple[str, ...]
    tasks: tuple[int, ...]
    after: tuple[str, ...] = ()
    same_task_of: tuple[int, ...] = ()


def arrange(
    runs: Sequence[str],
    stage_of: Mapping[str, str],
    needs: Mapping[str, Sequence[str]],
    column_of: Mapping[str, str],
    jobs: Mapping[str, str],
    limit: int,
    memory_of: Mapping[str, int] | None = None,
) -> list[Array]:
    """The arrays that submit `runs`, those that others wait for first.

    Args:
        runs: to submit, ancestors first.
        stage_of: stage of each run.
        needs: runs that each needs and that are not finished; those without any may be left out.
        column_of: runs of one stage with different columns are never in one array (the level of a pretraining).
        jobs: Slurm's ids of the tasks of ancestors that were submitted earlier.
        limit: task indices are below it (Slurm's MaxArraySize).
        memory_of: runs of one stage that ask for different memory are never in one array.
    """
    arranger = _Arranger(needs, column_of, jobs, limit, memory_of or {}, _families(runs, needs))
    for stage in STAGES:
        arranger.add(stage, [run for run in runs if stage_of[run] == stage])
    return arranger.arrays


def _families(runs: Sequence[str], needs: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """The runs that wait for each run, itself where none does. Ancestors with the same followers are to have the same
    index."""
    followers: dict[str, set[str]] = {run: set() for run in runs}
    for run in runs:
        for need in needs.get(run, ()):
            if need in followers:
                followers[need].add(run)
    return {run: frozenset(found) or frozenset({run}) for run, found in followers.items()}


@dataclass
class _Arranger:
    needs: Mapping[str, Sequence[str]]
    column_of: Mapping[str, str]
    jobs: Mapping[str, str]
    limit: int
    memory_of: Mapping[str, int]
    families: Mapping[str, frozenset[str]]
    arrays: list[Array] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # array and task of each run so far

    def add(self, stage: str, runs: Sequence[str]) -> None:
        """Arrange the runs of one stage; what they need of other stages is arranged already."""
        groups: dict[frozenset[str], list[str]] = {}
        for run in runs:
            groups.setdefault(frozenset(self.needs.get(run, ())), []).append(run)
        followed, task_of = self._followed(groups)
        alike: dict[tuple[frozenset[str], tuple[int, ...]], list[frozenset[str]]] = {}
        for ancestors in groups:
            corresponding = tuple(sorted(self.places[need][0] for need in ancestors & followed))
            alike.setdefault((ancestors - followed, corresponding), []).append(ancestors)
        for (after, corresponding), members in alike.items():
            layers = self._layers([groups[ancestors] for ancestors in members]) if corresponding else []
            if corresponding and len(layers) < sum(1 for a in members for _ in self._lanes(groups[a])):
                for layer in layers:
                    tasks = [task_of[frozenset(self.needs[run])] for run in layer]
                    self._append(stage, layer, tasks, after, corresponding)
                continue
            for ancestors in members:
                for lane, tasks in self._lanes(groups[ancestors]):
                    self._append(stage, lane, tasks, ancestors, ())

    def _followed(self, groups: Iterable[frozenset[str]]) -> tuple[set[str], dict[frozenset[str], int]]:
        """Ancestors that tasks of the same index can wait for, and that index for every group of runs.

        The index of a group is that of the ancestors which it alone has; an ancestor of several groups counts where
        all of these have its own index.
        """
        users: dict[str, list[frozenset[str]]] = {}
        for ancestors in groups:
            for need in ancestors:
                users.setdefault(need, []).append(ancestors)
        task_of = {}
        for ancestors in groups:
            own = [self.places[need] for need in ancestors if len(users[need]) == 1 and self._placed(need)]
            if len({task for _, task in own}) == 1 and len({array for array, _ in own}) == len(own):
                task_of[ancestors] = own[0][1]
        followed: set[str] = set()
        for need, using in users.items():
            if self._placed(need) and all(task_of.get(ancestors) == self.places[need][1] for ancestors in using):
                followed.add(need)
        return followed, task_of

    def _placed(self, need: str) -> bool:
        return need in self.places and need not in self.jobs

    def _layers(self, groups: Sequence[Sequence[str]]) -> list[list[str]]:
        """Runs of all groups, at most one of each in a layer."""
        layers: dict[tuple[str, int, int], list[str]] = {}
        for group in groups:
            seen: dict[tuple[str, int], int] = {}
            for run in group:
                kind = self._kind(run)
                seen[kind] = seen.get(kind, 0) + 1
                layers.setdefault((*kind, seen[kind]), []).append(run)
        return list(layers.values())

    def _lanes(self, group: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
        """Runs with the same ancestors as arrays, with their tasks.

        Each run has the index of its family, the same in all columns, so that whoever follows it may wait for the same
        task of several arrays; families that have several runs of a kind use several arrays, unless one would do.
        """
        numbers: dict[frozenset[str], int] = {}
        kinds: dict[tuple[str, int], list[str]] = {}
        for run in group:
            numbers.setdefault(self.families[run], len(numbers))
            kinds.setdefault(self._kind(run), []).append(run)
        for runs in kinds.values():
            sizes = Counter(self.families[run] for run in runs)
            if 1 < max(sizes.values()) >= len(sizes):
                for start in range(0, len(runs), self.limit):
                    part = runs[start : start + self.limit]
                    yield part, list(range(len(part)))
                continue
            seen: Counter[frozenset[str]] = Counter()
            lanes: dict[tuple[int, int], list[str]] = {}
            for run in runs:
                family = self.families[run]
                lanes.setdefault((seen[family], numbers[family] // self.limit), []).append(run)
                seen[family] += 1
            for lane in lanes.values():
                yield lane, [numbers[self.families[run]] % self.limit for run in lane]

    def _kind(self, run: str) -> tuple[str, int]:
        return self.column_of.get(run, ""), self.memory_of.get(run, 0)

    def _append(
        self, stage: str, runs: list[str], tasks: list[int], after: Iterable[str], corresponding: tuple[int, ...]
    ) -> None:
        waits = tuple(sorted(self.jobs.get(need, need) for need in after))
        for part in _sayable(tasks):
            for index in part:
                self.places[runs[index]] = (len(self.arrays), tasks[index])
            chosen = tuple(runs[index] for index in part)
            self.arrays.append(Array(stage, chosen, tuple(tasks[index] for index in part), waits, corresponding))


def _sayable(tasks: Sequence[int]) -> Iterator[list[int]]:
    """Places in `tasks`, in parts whose tasks sbatch --array takes in one expression."""
    part = list(range(len(tasks)))
    if len(expression_of(tasks)) <= LONGEST_EXPRESSION:
        yield part
        return
    for half in (part[: len(part) // 2], part[len(part) // 2 :]):
        for inner in _sayable([tasks[index] for index in half]):
            yield [half[index] for index in inner]
