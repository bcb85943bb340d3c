"""The text of a first sweep file: every choice with its reason as a comment. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from hpcseg.study.configuration import Choice, Subsets, choose, choose_subsets
from hpcseg.study.measured import DatasetFacts
from hpcseg.text import counted, printable

_OTHERS = (
    ("mean teacher", "teacher"),
    ("masked", "masked"),
    ("S-TL", "transfer"),
    ("S-MTL", "multitask"),
)
_COLUMN = 40  # where reasons begin
_WIDTH = 120  # of a line; a longer reason stands above its key


def draft_sweep(facts: DatasetFacts, command: str) -> str:
    """A complete sweep file for a dataset.

    Args:
        facts: that were measured.
        command: that applies the file.

    Raises:
        BadInput: so few groups of cases that nothing is left to measure by.
    """
    return (
        "\n".join([*_head(facts, command), *_run(choose(facts)), *_grids(choose_subsets(facts)), *_views(facts)]) + "\n"
    )


def _head(facts: DatasetFacts, command: str) -> Iterator[str]:
    kind, device = (
        "CT" if facts.is_ct else "MR",
        "a CPU" if facts.gpu_gib is None else f"a GPU of {facts.gpu_gib:g} GiB",
    )
    scans = f"{counted(len(facts.groups), 'labelled scan')}, {facts.unlabelled} unlabelled, {facts.test} test"
    first = choose_subsets(facts).labelled[0]
    yield from (
        f"# {_comment(facts.name)}: {kind}, {scans}. Written by hpcseg init, for {device}; it is yours to change.",
        "#",
        f"#   {_comment(command)} --plan",
        f"#   {_comment(command)} --set labelled={first} --set fold=0 --set strategy=baseline",
        f"#   {_comment(command)}",
        "#",
        "# Each value follows from what was measured, by docs/configuration.md; hpcseg keys explains every key.",
        *(f"# {_comment(note)}" for note in facts.notes),
        "",
        "[sweep]",
        f"title = {_toml(f'{facts.name}: what unlabelled scans are worth')}",
        "",
    )


def _run(choices: Sequence[Choice]) -> Iterator[str]:
    yield "[run]"
    for section, found in groupby(choices, lambda choice: choice.key.partition(".")[0]):
        yield f"# {section}"
        for key, value, reason in found:
            line = f"{key} = {_toml(value)}"
            beside = f"{line:<{_COLUMN}}  # {_comment(reason)}"
            if len(beside) > _WIDTH:
                yield from textwrap.wrap(_comment(reason), _WIDTH, initial_indent="# ", subsequent_indent="# ")
            yield beside if reason and len(beside) <= _WIDTH else line
    yield ""


def _grids(subsets: Subsets) -> Iterator[str]:
    yield "# What the labelled scans alone give."
    yield from _grid("recipe", "baseline", subsets.labelled, subsets.folds)
    few = subsets.with_unlabelled
    yield "# The recipe's network labels the other scans; a second one learns from both."
    yield from (
        line if few else f"# {line}" for line in _grid("self-training", "selftrain", few or (1,), subsets.folds)
    )
    yield "# Further strategies (docs/strategies.md): take the # away."
    for name, strategy in _OTHERS:
        yield from (f"# {line}" if line else line for line in _grid(name, strategy, few or (1,), subsets.folds))


def _grid(name: str, strategy: str, labelled: Sequence[int | str], folds: int) -> Iterator[str]:
    yield from ("[[grid]]", f"name = {_toml(name)}", f"strategy = {_toml(strategy)}", f"labelled = {_toml(labelled)}")
    yield from (f"fold = {_toml([*range(folds)])}", "")


def _views(facts: DatasetFacts) -> Iterator[str]:
    """Tables and figures."""
    shown = "test" if facts.test else "validation"
    what = "test scans" if facts.test else "validation scans, which choose nothing: each labelled scan is measured once"
    yield f"# DSC on the {what}."
    yield from ("[[table]]", 'name = "dsc"', f'title = "DSC on {shown} scans (mean ± SD)"', 'rows = "labelled"')
    yield from ('columns = "grid"', 'over = ["fold"]', f'sets = ["{shown}"]')
    yield 'baseline = "recipe"' if choose_subsets(facts).with_unlabelled else 'baseline = "none"'
    for kind in ("box", "examples"):
        yield from ("", "[[figure]]", f'name = "{shown}-{kind}"', f'kind = "{kind}"', 'x = "labelled"', 'hue = "grid"')
        yield f'set = "{shown}"'


def _toml(value: Any) -> str:
    """A value as TOML writes it.

    >>> _toml([[1], [2]]), _toml("a\\"b"), _toml(0.003), _toml(True)
    ('[[1], [2]]', '"a\\\\"b"', '0.003', 'true')
    """
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    return " ".join(printable(text).split())
