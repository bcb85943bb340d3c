from __future__ import annotations

from hpcseg.runs.evidence import State, Verdict
from hpcseg.runs.recovery import Budgets
from hpcseg.submit.choice import Choice, choose, grown_memory_mb
from hpcseg.submit.profile import SlurmProfile

NEEDS = {"pack": [], "pretrain": ["pack"], "train": ["pack", "pretrain"]}


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
    profile = SlurmProfile(budgets=Budgets(memory_growth=2.0, memory_max="100G"))
    assert grown_memory_mb(32768, 0, profile) == 32768
    assert grown_memory_mb(32768, 32768, profile) == 65536
    assert grown_memory_mb(32768, 65536, profile) == 102400
    assert grown_memory_mb(200000, 65536, profile) == 200000  # the profile was raised since
    assert grown_memory_mb(1000, 4000, SlurmProfile()) == 6000
