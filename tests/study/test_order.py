from __future__ import annotations

from dataclasses import dataclass

from hpcseg.study.order import waves


@dataclass(frozen=True)
class Step:
    stage: str
    needs: tuple[str, ...] = ()


def order(**steps: Step) -> list[tuple[int, str, list[str]]]:
    names = {id(step): name for name, step in steps.items()}
    return [(wave, stage, [names[id(step)] for step in part]) for (wave, stage), part in waves(steps.items()).items()]


def test_kinds_follow_each_other_where_nothing_needs_a_later_one() -> None:
    found = order(
        a=Step("pack"),
        t=Step("train", ("a", "p")),
        p=Step("pretrain", ("a",)),
        b=Step("pack"),
        u=Step("train", ("b", "elsewhere")),
    )
    assert found == [(0, "pack", ["a", "b"]), (0, "pretrain", ["p"]), (0, "train", ["t", "u"])]


def test_what_needs_a_later_kind_begins_the_next_wave() -> None:
    found = order(
        second=Step("train", ("labels", "pack")),
        labels=Step("label", ("first", "pack")),
        first=Step("train", ("pack",)),
        pack=Step("pack"),
        third=Step("train", ("more",)),
        more=Step("label", ("second",)),
        other=Step("train", ("pack",)),
    )
    assert found == [
        (0, "pack", ["pack"]),
        (0, "train", ["first", "other"]),
        (1, "label", ["labels"]),
        (1, "train", ["second"]),
        (2, "label", ["more"]),
        (2, "train", ["third"]),
    ]


def test_a_run_that_goes_on_from_one_of_its_kind_comes_after_it() -> None:
    assert order(b=Step("train", ("a",)), a=Step("train")) == [(0, "train", ["a"]), (1, "train", ["b"])]
