"""The page of `make gpu`: what it says without numbers, with them, and where something failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcseg.config import RunConfig
from tests.gpu import experiments, report
from tests.gpu.figures import FIGURES
from tests.gpu.kit import Found, Table, plain
from tests.gpu.parts import ALL, SPARE, STUDY, TESTS
from tests.gpu.report import Results, page, read_results, write_results
from tests.gpu.study import margin

MACHINE = {"gpu": "Abacus H", "driver": "1.2", "torch": "2.11.0", "date": "2026-01-01"}


def results(**parts: Found) -> Results:
    return Results(MACHINE, {name.replace("__", "."): found for name, found in parts.items()}, 123.4)


def complete() -> Results:
    figures = {figure.name: figure.bound.limit if figure.bound else 1.0 for figure in FIGURES}
    found = {part.name: Found() for part in ALL}
    found["tests"] = Found(figures=figures, tables=[Table("A table", ["a", "b"], [["1", "2"]], "A note.")])
    return Results(MACHINE, found, 1.0)


def test_the_page_in_docs_shows_the_numbers_in_docs() -> None:
    text = (report.DOCS / "benchmarks-gpu.md").read_text(encoding="utf-8")
    assert text == page(read_results()), "python -m tests.gpu --page"


def test_without_numbers_the_page_says_so_and_which_command_writes_it() -> None:
    text = page(Results())
    assert "No GPU has run this yet" in text
    assert "`make gpu`" in text
    assert "not measured yet" in text
    assert "faster" not in text, "no hours without steps"


def test_with_numbers_it_names_the_machine_and_shows_tables() -> None:
    text = page(complete())
    assert "**Abacus H**; driver 1.2; torch 2.11.0; date 2026-01-01" in text
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in text
    assert "A note." in text
    assert "## What failed or was not run\n\nNothing.\n" in text
    assert not complete().failed


def test_what_failed_stands_first_and_fails_the_run() -> None:
    found = results(
        tests=Found(figures={"tests_failed": 1.0}, failed=["test_x: wrong"]),
        steps__measure=Found(state="stopped", seconds=80),
        loading__busy=Found(late=["training, streamed", "more"]),
    )
    text = page(found)
    for line in (
        "- bound missed: `tests_failed`",
        f"- failed: {TESTS.title}: test_x: wrong",
        "- The training step: stopped after 80 s",
        "- no time for: Is the GPU ever idle?: training, streamed and 1 more",
        "- not run: Convolutions",
    ):
        assert line in text.split("## Figures")[0]
    assert found.failed


def test_a_missed_bound_alone_fails_the_run() -> None:
    assert results(loading__gather=Found(figures={"gather_share": 3.0})).failed
    assert not results(loading__gather=Found(figures={"gather_share": 1.0})).failed


@pytest.mark.parametrize("state", ["stopped", "not run"])
def test_only_the_last_parts_may_lack_time(state: str) -> None:
    assert {STUDY.name, "steps.exact", "steps.compiled"} == SPARE
    assert not results(steps__compiled=Found(state=state)).failed
    assert not results(steps__exact=Found(state=state)).failed
    assert results(steps__strategies=Found(state=state)).failed
    assert results(steps__compiled=Found(state="failed")).failed
    assert results(steps__compiled=Found(state=state, failed=["wrong"])).failed


def test_the_bar_of_a_dsc_is_set_by_chance() -> None:
    exact = [0.8, 0.9, 1.0]  # standard deviation: 0.1
    assert margin([0.7, 0.7, 0.7], exact) == pytest.approx(0)
    assert margin([0.6, 0.7, 0.65], exact) == pytest.approx(-0.05)


def test_numbers_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_results(complete(), tmp_path)
    assert read_results(tmp_path) == complete()
    assert (tmp_path / "benchmarks-gpu.md").read_text() == page(complete())
    assert json.loads((tmp_path / "benchmarks-gpu.json").read_text())["machine"]["gpu"] == "Abacus H"


def test_figures_and_parts_have_names_of_their_own() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert len({part.name for part in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/tmp/a-b/c.py:3: no such file", "c.py:3: no such file"),
        ("see https://example.org/x", "see https:/example.org/x"),
        ("read/write of a | b\nand ms/step", "read/write of a ¦ b and ms/step"),
        ("x" * 300, "x" * 239 + "…"),
    ],
)
def test_remarks_name_no_folder_and_break_no_table(said: str, shown: str) -> None:
    text = plain(said)
    assert "://" not in text
    assert "/tmp" not in text
    assert len(text) <= 240
    if "https" not in said:
        assert text == shown


def test_hours_follow_from_the_steps() -> None:
    figures = {"step_bfloat16_ms": 20.0, "validation_step_ms": 10.0, "multitask_ms": 30.0}
    figures |= {f"autoencoder{level}_ms": 5.0 for level in range(4)}
    seconds = experiments.run_seconds(figures, RunConfig())
    assert seconds["baseline"] == pytest.approx(1000 * (15 * 0.020 + 8 * 0.010))
    assert seconds["transfer"] == pytest.approx(seconds["baseline"] + 500 * 15 * 4 * 0.005)
    assert seconds["multitask"] == pytest.approx(1000 * (15 * 0.030 + 8 * 0.010))
    watched = experiments.run_seconds(figures | {"epoch_resident_ms": 680.0}, RunConfig())
    assert watched["baseline"] == pytest.approx(680)
    rows = experiments.hours_table(figures, RunConfig())
    assert rows[0] == ["baseline", "380 s", "0.53 h", "80 h", "152 ×"]
    assert experiments.hours_table({}, RunConfig()) == []
