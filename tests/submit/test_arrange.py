from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.runs.attempts import Attempt, write_attempt
from hpcseg.runs.evidence import State, Verdict
from hpcseg.runs.recovery import Budgets
from hpcseg.slurm.queue import expression_of
from hpcseg.study.plan import Plan
from hpcseg.submit.arrange import (
    LONGEST_EXPRESSION,
    Array,
    Choice,
    Request,
    arrange,
    arrays_of,
    choose,
    choose_for,
    grown_memory_mb,
)
from hpcseg.submit.profile import SlurmProfile

LEVELS = 4
NEEDS = {"pack": [], "pretrain": ["pack"], "train": ["pack", "pretrain"]}


def arranged(
    needs: Mapping[str, Sequence[str]], limit: int = 1001, jobs: Mapping[str, str] | None = None
) -> list[Array]:
    """Arrays of runs named like "train-3", "pretrain-3-1" (level 1), "pack-0"."""
    requests = []
    for run, names in needs.items():
        stage, _, *column = run.split("-")
        waits = frozenset((jobs or {}).get(name, name) for name in names)
        requests.append(Request(run, stage, waits, "".join(column)))
    return arrange(requests, limit)


def own_ancestors(runs: int, seeds: int = 1) -> dict[str, list[str]]:
    """One pack, and for each training run (or several, by seed) an autoencoder of its own per level."""
    needs: dict[str, list[str]] = {"pack-0": []}
    needs |= {f"pretrain-{run}-{level}": ["pack-0"] for run in range(runs) for level in range(LEVELS)}
    for run in range(runs * seeds):
        needs[f"train-{run}"] = ["pack-0", *(f"pretrain-{run // seeds}-{level}" for level in range(LEVELS))]
    return needs


def test_runs_with_the_same_ancestors_share_an_array_and_wait_for_exactly_those() -> None:
    needs = {"pack-0": [], "pack-1": [], "train-0": ["pack-0"], "train-1": ["pack-1"], "train-2": ["pack-0"]}
    needs["train-3"] = []
    assert arranged(needs) == [
        Array("pack", ("pack-0", "pack-1"), (0, 1)),
        Array("train", ("train-0", "train-2"), (0, 1), after=("pack-0",)),
        Array("train", ("train-1",), (0,), after=("pack-1",)),
        Array("train", ("train-3",), (0,)),
    ]


def test_an_ancestor_submitted_earlier_is_named_by_its_job() -> None:
    needs = {"train-0": ["pack-0", "pack-1"], "train-1": ["pack-1", "pack-0"]}
    arrays = arranged(needs, jobs={"pack-0": "17_3", "pack-1": "18_0"})
    assert arrays == [Array("train", ("train-0", "train-1"), (0, 1), after=("17_3", "18_0"))]


def test_a_thousand_runs_with_ancestors_of_their_own_are_six_arrays() -> None:
    arrays = arranged(own_ancestors(1000))
    assert [(a.stage, len(a.runs), a.after, a.same_task_of) for a in arrays] == [
        ("pack", 1, (), ()),
        *[("pretrain", 1000, ("pack-0",), ()) for _ in range(LEVELS)],
        ("train", 1000, ("pack-0",), (1, 2, 3, 4)),
    ]
    assert arrays[5].tasks == arrays[1].tasks == tuple(range(1000))


def test_self_training_is_an_array_for_each_of_its_steps_whose_tasks_follow_each_other() -> None:
    needs: dict[str, list[str]] = {"pack-0": []}
    for run in range(10):
        needs |= {f"train-{run}": ["pack-0"], f"label-{run}": ["pack-0", f"train-{run}"]}
        needs[f"train-{10 + run}"] = ["pack-0", f"train-{run}", f"label-{run}"]
    arrays = arranged(needs)
    assert [(a.stage, len(a.runs), a.after, a.same_task_of) for a in arrays] == [
        ("pack", 1, (), ()),
        ("train", 10, ("pack-0",), ()),
        ("label", 10, ("pack-0",), (1,)),
        ("train", 10, ("pack-0",), (1, 2)),
    ]
    assert_sound(needs, arrays, 1001)
    one = {"pack-0": [], "train-0": ["pack-0"], "label-0": ["pack-0", "train-0"], "train-1": ["label-0"]}
    assert [(a.stage, a.after) for a in arranged(one)][1:] == [
        ("train", ("pack-0",)),
        ("label", ("pack-0", "train-0")),
        ("train", ("label-0",)),
    ]


def test_seeds_that_share_ancestors_are_an_array_each_where_that_is_fewer() -> None:
    assert [len(a.runs) for a in arranged(own_ancestors(50, seeds=3)) if a.stage == "train"] == [50, 50, 50]
    assert [len(a.runs) for a in arranged(own_ancestors(3, seeds=50)) if a.stage == "train"] == [50, 50, 50]
    assert [len(a.runs) for a in arranged(own_ancestors(2, seeds=50)) if a.stage == "train"] == [50, 50]


def test_what_is_finished_leaves_holes_and_the_tasks_stay_aligned() -> None:
    needs = own_ancestors(10)
    finished = {
        "pack-0",
        "pretrain-1-0",
        "pretrain-5-0",
        "pretrain-5-2",
        "train-7",
        *(f"pretrain-7-{n}" for n in range(4)),
    }
    left = {run: [n for n in names if n not in finished] for run, names in needs.items() if run not in finished}
    arrays = arranged(left)
    assert [a.stage for a in arrays] == ["pretrain"] * 4 + ["train"] * 3
    assert arrays[0].tasks == (0, 2, 3, 4, 6, 7, 8) and arrays[1].tasks == tuple(range(9))
    assert_sound(left, arrays, 1001)


def test_arrays_are_split_below_the_limit_and_still_correspond() -> None:
    arrays = arranged(own_ancestors(25), limit=10)
    assert [len(a.runs) for a in arrays if a.stage == "train"] == [10, 10, 5]
    assert_sound(own_ancestors(25), arrays, 10)


def test_many_packs_of_one_run_each_need_few_arrays() -> None:
    needs: dict[str, list[str]] = {f"pack-{n}": [] for n in range(20)}
    needs |= {f"pretrain-{n}-{level}": [f"pack-{n}"] for n in range(20) for level in range(2)}
    needs |= {f"train-{n}": [f"pack-{n}", f"pretrain-{n}-0", f"pretrain-{n}-1"] for n in range(20)}
    arrays = arranged(needs)
    assert [(a.stage, a.same_task_of) for a in arrays] == [
        ("pack", ()),
        ("pretrain", (0,)),
        ("pretrain", (0,)),
        ("train", (0, 1, 2)),
    ]


def test_runs_that_ask_for_different_memory_are_in_different_arrays() -> None:
    requests = [Request(f"train-{n}", "train", memory_mb=48000 if n == 1 else 32000) for n in range(3)]
    arrays = arrange(requests, 10)
    assert [(a.runs, a.memory_mb) for a in arrays] == [(("train-0", "train-2"), 32000), (("train-1",), 48000)]


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, list[str]]:
    """Any way in which packs, pretrainings of levels and training runs need each other."""
    packs = [f"pack-{n}" for n in range(draw(st.integers(0, 4)))]
    needs: dict[str, list[str]] = {pack: [] for pack in packs}
    some_packs = st.lists(st.sampled_from(packs), unique=True, max_size=2) if packs else st.just([])
    pretrained = [f"pretrain-{n}-{draw(st.integers(0, 2))}" for n in range(draw(st.integers(0, 8)))]
    for run in pretrained:
        needs[run] = draw(some_packs)
    for n in range(draw(st.integers(0, 12))):
        own = draw(st.lists(st.sampled_from(pretrained), unique=True, max_size=3)) if pretrained else []
        needs[f"train-{n}"] = [*draw(some_packs), *own]
    return needs


@given(sweeps(), st.integers(1, 5), st.sets(st.integers(0, 30), max_size=4))
@settings(max_examples=300, deadline=None)
def test_every_run_waits_for_exactly_its_unfinished_ancestors(
    needs: dict[str, list[str]], limit: int, elsewhere: set[int]
) -> None:
    submitted_earlier = {run for n, run in enumerate(needs) if n in elsewhere}
    jobs = {run: f"9{n}_0" for n, run in enumerate(needs) if run in submitted_earlier}
    here = {run: names for run, names in needs.items() if run not in submitted_earlier}
    arrays = arranged(here, limit, jobs)
    assert_sound(here, arrays, limit, jobs)


def assert_sound(
    needs: Mapping[str, Sequence[str]], arrays: Sequence[Array], limit: int, jobs: Mapping[str, str] | None = None
) -> None:
    runs_of_jobs = {job: run for run, job in (jobs or {}).items()}
    assert sorted(run for array in arrays for run in array.runs) == sorted(needs)
    before: set[str] = set()
    for index, array in enumerate(arrays):
        assert array.runs and len(array.runs) == len(array.tasks) == len(set(array.tasks))
        assert all(0 <= task < limit for task in array.tasks)
        assert all(other < index for other in array.same_task_of)
        for run, task in zip(array.runs, array.tasks, strict=True):
            waits = {runs_of_jobs.get(name, name) for name in array.after}
            for other in array.same_task_of:
                # Slurm lets a task start at once where the other array has none of its index: it must be there.
                waits.add(arrays[other].runs[arrays[other].tasks.index(task)])
            assert waits == set(needs[run])
            assert waits <= before | set(jobs or {})
        before |= set(array.runs)


def test_an_array_has_no_more_tasks_than_sbatch_can_be_told() -> None:
    needs = own_ancestors(2000)
    kept = {run: [n for n in found if n in needs] for run, found in needs.items() if not run.endswith("1")}
    kept = {run: [n for n in found if n in kept] for run, found in kept.items()}
    arrays = arranged(kept, limit=5000)
    assert all(len(expression_of(array.tasks)) <= LONGEST_EXPRESSION for array in arrays)
    assert sorted(run for array in arrays for run in array.runs) == sorted(kept)
    assert len(arrays) < 40


def chosen(pack: State, pretrain: State, train: State, /, **jobs: str) -> Choice:
    states = {"pack": pack, "pretrain": pretrain, "train": train}
    return choose(NEEDS, {name: Verdict(state, "so", job=jobs.get(name, "")) for name, state in states.items()})


def test_what_nobody_works_on_is_taken_and_waits_for_the_jobs_of_what_is_under_way() -> None:
    assert chosen("new", "new", "new") == Choice(("pack", "pretrain", "train"), {}, {})
    assert chosen("done", "running", "failed", pretrain="7_1") == Choice(("train",), {"pretrain": "7_1"}, {})
    assert chosen("done", "done", "queued", train="7_2") == Choice((), {}, {})


def test_a_run_that_waits_for_a_job_which_is_replaced_is_submitted_again_with_it() -> None:
    assert chosen("done", "stopped", "queued", train="7_2").taken == ("pretrain", "train")
    assert chosen("done", "stopped", "running", train="7_2").taken == ("pretrain",)


def test_a_run_whose_ancestor_has_no_job_or_may_be_anywhere_waits() -> None:
    choice = chosen("running", "new", "new")
    assert choice.taken == () and choice.waiting.keys() == {"pretrain", "train"}
    assert choice.waiting["pretrain"] == "needs pack, which is running (so)"
    assert chosen("done", "unknown", "new", pretrain="7_1").waiting.keys() == {"train"}


def test_a_run_that_used_up_its_memory_asks_for_more_within_the_bound() -> None:
    twice = Budgets(memory_growth=2.0)
    assert grown_memory_mb(32768, 32768, twice, 102400) == 65536
    assert grown_memory_mb(32768, 65536, twice, 102400) == 102400
    assert grown_memory_mb(200000, 65536, twice, 102400) == 200000  # the profile was raised since
    assert grown_memory_mb(1000, 4000, Budgets(), 0) == 6000


@pytest.mark.parametrize(("memory_max", "asked"), [("", 128000), ("100G", 102400)])
def test_nobody_asks_for_more_memory_than_the_largest_node_has(
    plan_study: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, memory_max: str, asked: int
) -> None:
    """A job that no node can run is refused, and with it the arrays that come after its own."""
    plan = plan_study()
    run_id = next(iter(plan.of_stage("train")))
    plan.run(run_id).path.mkdir(parents=True)
    used_up = Attempt(number=1, job="7_1", node="n1", began=0.0, gpus=0, ended=9.0, cause="memory", memory_mb=108000)
    write_attempt(plan.run(run_id).path, used_up)
    calls: list[str] = []

    def largest_mb(partition: str) -> int:
        calls.append(partition)
        return 128000

    monkeypatch.setattr("hpcseg.submit.arrange.largest_mb", largest_mb)
    settings = {"partition": "other", "flags": {"partition": "main"}, "budgets": {"memory_max": memory_max}}
    profile = SlurmProfile.model_validate(settings)
    arrays = arrays_of(plan, choose_for(plan, "slurm"), profile, limit=1000)
    assert [array.memory_mb for array in arrays if run_id in array.runs] == [asked]
    assert calls == ([] if memory_max else ["main"])
