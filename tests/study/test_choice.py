from __future__ import annotations

from hpcseg.runs.evidence import State, Verdict
from hpcseg.submit.apply import Choice, choose

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
