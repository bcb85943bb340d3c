"""Sweep files that come with hpcseg, by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.shipped import copy_sweep, describe, find_shipped, find_sweep, names_of, shipped_sweeps

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_sweep_says_what_it_answers_and_what_it_costs() -> None:
    sweeps = shipped_sweeps()
    assert sweeps[0].name == "demo"
    assert {sweep.name for sweep in sweeps} == {path.stem for path in (ROOT / "sweeps").glob("*.toml")}
    assert [sweep.name for sweep in sweeps if not (sweep.title and sweep.cost and sweep.header)] == []
    assert describe("table1").cost == "on a GTX 1080 Ti: 6 runs × 16 h = 96 GPU hours"


def test_a_file_goes_before_a_name_and_a_folder_does_not() -> None:
    assert find_sweep(Path("demo")).samefile(ROOT / "sweeps" / "demo.toml")
    Path("paper").write_text("[sweep]\n")
    assert find_sweep(Path("paper")) == Path("paper")
    Path("demo").mkdir()  # as make demo leaves one
    assert find_sweep(Path("demo")).samefile(ROOT / "sweeps" / "demo.toml")


@pytest.mark.parametrize("given", ["papr", "sweeps/paper.toml", "../sweeps/paper", ".", "sweeps"])
def test_what_is_no_sweep_lists_the_names(given: str) -> None:
    Path("sweeps").mkdir()
    with pytest.raises(BadInput) as caught:
        find_sweep(Path(given))
    assert str(caught.value).startswith(f"{given}: ") and ", ".join(names_of("sweeps")) in str(caught.value)
    assert ("did you mean 'paper'?" in str(caught.value)) == ("pap" in given)


def test_profiles_have_names_and_paths_are_none() -> None:
    assert names_of("jobs") == ["gpu", "local", "slurm"]
    assert find_shipped(Path("gpu"), "jobs") is not None
    assert find_shipped(Path("../jobs/gpu"), "jobs") is None


def test_a_copy_brings_its_splits_and_replaces_nothing() -> None:
    to = Path("own") / "my.toml"
    assert copy_sweep(Path("hippocampus"), to) == [to, Path("own/splits/hippocampus.csv")]
    assert to.read_text() == (ROOT / "sweeps" / "hippocampus.toml").read_text()
    assert copy_sweep(Path("controls"), Path("own/other.toml")) == [Path("own/other.toml")]  # of the same splits
    with pytest.raises(BadInput, match=r"own/my\.toml: exists, and is not replaced; name another file: hpcseg sweep"):
        copy_sweep(Path("demo"), to)
    Path("splits").mkdir()
    Path("splits/hippocampus.csv").write_text("of others")
    with pytest.raises(BadInput, match=r"splits/hippocampus\.csv: exists"):
        copy_sweep(Path("hippocampus"), Path("new.toml"))
    assert not Path("new.toml").exists()
