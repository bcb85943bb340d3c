"""What `hpcseg keys` and docs/keys.md say, from the text beside each key."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from hpcseg import registry
from hpcseg.errors import BadInput
from hpcseg.paths import STAGES
from hpcseg.screens.keys import every_group, keys_json, keys_lines, keys_markdown, keys_tables, matching
from hpcseg.sections import Section, key


def names(pattern: str | None) -> list[str]:
    return [found["key"] for found in keys_json(matching(pattern))]


class Shrinking(Section):
    """Another package's section."""

    amount: float = key(0.5, "by how much", unit="share", source="another paper")


class Shrink:
    """As much of a strategy as keys ask for."""

    name, networks, section_type = "shrink", ("fnet",), Shrinking


class Installed:
    """Its entry point."""

    value, dist, load = "elsewhere:Shrink", None, staticmethod(lambda: Shrink)


def test_the_page_of_keys_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_brought", dict)  # the page knows nothing of what is installed here
    page = Path(__file__).parents[2] / "docs" / "keys.md"
    assert page.read_text(encoding="utf-8") == keys_markdown(), "make keys writes it anew"


def test_a_pattern_is_a_section_a_key_a_glob_or_a_part_of_a_name() -> None:
    assert names("patches") == ["patches.size", "patches.lattice", "patches.foreground_share"]
    assert names("strategy") == ["strategy"]
    assert names("slurm.*.nodes") == [f"slurm.{stage}.nodes" for stage in STAGES]
    assert names("tune_rate") == ["transfer.fine_tune_rate"]
    assert {"training.epochs", "local.slots", "slurm.budgets.node"} <= set(names(None))


def test_keys_of_another_package_are_shown_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_brought", lambda: {"shrink": Installed()})
    assert "shrink.amount" in names(None)
    assert keys_lines(matching("shrink")) == ["shrink.amount  0.5  share  by how much · number · another paper"]
    (strategy,) = keys_json(matching("strategy"))
    assert (
        strategy["type"]
        == '"baseline" or "transfer" or "multitask" or "teacher" or "masked" or "selftrain" or "shrink"'
    )


def test_a_pattern_without_a_key_names_those_that_are_near() -> None:
    with pytest.raises(BadInput, match=r"no key matches 'learning_rte'; near: .*training\.learning_rate") as near:
        matching("learning_rte")
    assert near.value.exit_code == 2
    with pytest.raises(BadInput, match=r"no key matches 'xyz'; sections: data, preprocessing, "):
        matching("xyz")


def test_the_defaults_of_a_stage_are_those_of_that_stage() -> None:
    gpus = {found["key"]: found["default"] for found in keys_json(matching("slurm.*.gpus"))}
    assert gpus == {f"slurm.{stage}.gpus": int(stage != "pack") for stage in STAGES}


def test_each_key_has_a_line_in_a_pipe() -> None:
    lines = keys_lines(matching("training"))
    assert lines[0].split()[:4] == ["training.epochs", "1000", "epochs", "the"]
    assert lines[0].endswith(" · integer ≥ 1 · paper 3.1.1")
    assert len(keys_lines(every_group())) == len(names(None))


def test_tables_hold_all_of_it_in_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for table in keys_tables(matching("training")):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for name in ("plateau_factor", "0.0003", "per step", '"best" or "last"', "paper 3.1.1", "[training]"):
        assert name in text
