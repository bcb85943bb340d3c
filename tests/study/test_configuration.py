"""Rules from facts to keys: what they choose for data of many kinds, and that every sweep file they give is one."""

from __future__ import annotations

import re
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.configuration import SCALES, choose, choose_subsets
from hpcseg.study.draft import draft_sweep
from hpcseg.study.grids import expand
from hpcseg.study.measured import DatasetFacts
from hpcseg.study.sweepfile import read_sweep


def facts(**changes: Any) -> DatasetFacts:
    """Those of hippocampi, as they were measured in MSD's Task04, with changes; a number of groups stands for them."""
    count = changes.pop("cases", 160)
    usual = DatasetFacts(
        name="Task04_Hippocampus",
        is_ct=False,
        labels={1: "Anterior", 2: "Posterior"},
        label_ml={1: 1.7, 2: 1.5},
        spacing_zyx=(1.0, 1.0, 1.0),
        shape_zyx=(36.0, 50.0, 35.0),
        foreground_share=0.053,
        foreground_ends=(100.0, 300.0),
        foreground_spread=0.8,
        groups={f"case_{n}": f"{n}" for n in range(count)},
    )
    return replace(usual, **changes)


LIVER: dict[str, Any] = {
    "name": "Task03_Liver",
    "is_ct": True,
    "labels": {1: "liver", 2: "tumour"},
    "label_ml": {1: 1500.0, 2: 20.0},
    "spacing_zyx": (1.0, 0.77, 0.77),
    "shape_zyx": (432.0, 512.0, 512.0),
    "foreground_share": 0.02,
    "foreground_ends": (-46.0, 144.0),
}
THICK = LIVER | {"spacing_zyx": (5.0, 0.8, 0.8), "shape_zyx": (60.0, 512.0, 512.0)}
ATRIUM: dict[str, Any] = {
    "name": "LeftAtrium",
    "labels": {1: "left atrium"},
    "label_ml": {1: 53.0},
    "spacing_zyx": (1.25,) * 3,
    "shape_zyx": (44.0, 71.0, 96.0),
    "foreground_spread": 2.7,
}
PHANTOMS = LIVER | {
    "name": "Phantoms",
    "label_ml": {1: 1400.0, 2: 9.0},
    "spacing_zyx": (4.0,) * 3,
    "shape_zyx": (60.0, 96.0, 96.0),
}
BONE: dict[str, Any] = {
    "name": "femur",
    "labels": {1: "trabecula"},
    "label_ml": {1: 0.02},
    "spacing_zyx": (0.1,) * 3,
    "shape_zyx": (60.0, 60.0, 60.0),
    "foreground_share": 0.001,
}
SEVERAL = {"labels": {1: "left kidney", 2: "right kidney", 3: "spleen"}, "label_ml": {1: 150.0, 2: 150.0, 3: 200.0}}


def chosen(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value, _ in choose(facts(**changes))}


def test_hippocampi_get_what_their_sweep_file_has() -> None:
    known = read_sweep(Path(__file__).parents[2] / "sweeps" / "hippocampus.toml").run
    found = chosen()
    differ = {key for key in known if found.get(key) != known[key]}
    assert differ == {"data.foreground", "data.groups", "data.splits", *()}
    assert found["data.foreground"] == [[1], [2]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (ATRIUM, {"patches.size": 32, "network.levels": 4, "augmentation.curve": 0.5, "augmentation.mirror": []}),
        (ATRIUM, {"preprocessing.spacing": 1.25, "preprocessing.intensity": "zscore", "data.foreground": [1]}),
        (LIVER, {"preprocessing.spacing": 3.16, "preprocessing.intensity": "percentile", "patches.size": 32}),
        (LIVER, {"network.levels": 4, "network.maps": 16, "inference.nsd_mm": 5.0, "augmentation.mirror": []}),
        (LIVER | {"gpu_gib": 80.0}, {"preprocessing.spacing": 1.09, "patches.size": 72, "network.kernel": 5}),
        (LIVER | {"gpu_gib": 80.0}, {"network.maps": 32, "training.batch": 8, "training.learning_rate": 1e-3}),
        (LIVER | {"gpu_gib": 6.0}, {"patches.size": 48, "network.kernel": 3, "training.epochs": 300}),
        (PHANTOMS, {"preprocessing.spacing": 4.0, "patches.size": 32, "network.levels": 4}),
        (THICK, {"preprocessing.spacing": [5.0, 3.16, 3.16], "patches.size": 32}),
        (THICK | {"gpu_gib": 80.0}, {"preprocessing.spacing": [5.0, 1.67, 1.67], "patches.size": 40}),
        (BONE, {"preprocessing.spacing": 0.1, "patches.size": 32, "inference.nsd_mm": 0.2}),
        (BONE, {"patches.foreground_share": 0.7, "augmentation.mirror": ["x"]}),
        (SEVERAL, {"data.foreground": [[1], [2], [3]], "augmentation.mirror": []}),
        ({"labels": {1: "kidneys"}, "label_ml": {1: 300.0}}, {"augmentation.mirror": ["x"]}),
        (
            {"labels": {1: "LeftKidney", 2: "RightKidney"}, "label_ml": {1: 150.0, 2: 150.0}},
            {"augmentation.mirror": []},
        ),
        ({"unlabelled": 7}, {"data.unlabelled_ts": True}),
        ({"unlabelled": 7, "test": 3}, {"data.unlabelled_ts": True, "data.test": "Task04_Hippocampus"}),
    ],
)
def test_data_of_other_kinds(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = chosen(**changes)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("cases", "unlabelled", "expected"),
    [
        (160, 0, ((2, 4, 8, 16, "all"), (2, 4, 8, 16), 5)),
        (12, 3, ((2, 4, 8, "all"), (2, 4, 8, "all"), 5)),
        (4, 2, ((2, "all"), (2, "all"), 4)),
        (3, 0, ((1, "all"), (1,), 3)),
        (2, 0, (("all",), (), 2)),
        (2, 1, (("all",), ("all",), 2)),
    ],
)
def test_folds_and_subsets(cases: int, unlabelled: int, expected: tuple[Any, ...]) -> None:
    found = choose_subsets(facts(cases=cases, unlabelled=unlabelled))
    assert (found.labelled, found.with_unlabelled, found.folds) == expected


def test_one_patient_is_refused() -> None:
    with pytest.raises(BadInput, match="of one patient"):
        choose(facts(groups={"a": "p", "b": "p"}))


ODD = {"name": 'a "b" \\ ü', "labels": {1: "a\nb", 7: 'left "x"', 255: ""}, "label_ml": {1: 1e-4, 7: 1e4}}


@pytest.mark.parametrize(
    "changes", [{}, LIVER, THICK, ATRIUM, PHANTOMS, BONE, SEVERAL, ODD], ids=lambda changes: changes.get("name")
)
def test_every_file_can_be_read_and_says_why(tmp_path: Path, changes: dict[str, Any]) -> None:
    few, many = {"cases": 2}, {"cases": 9, "unlabelled": 2, "test": 1, "gpu_gib": 11.0}
    measured = facts(**changes | (few if changes in ({}, ODD) else many))
    text = draft_sweep(measured, "hpcseg sweep x.toml")
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    sweep, choices = read_sweep(tmp_path / "x.toml"), choose(measured)
    assert sweep.run == {key: value for key, value, _ in choices}
    assert expand(sweep)
    lines = text[text.index("[run]") :].splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert all(" ".join(reason.split())[:30] in text for _, _, reason in choices)


def test_other_strategies_need_only_their_marks_taken_away(tmp_path: Path) -> None:
    text = draft_sweep(facts(), "hpcseg sweep x.toml")
    begin, end = text.index("# [[grid]]"), text.index("# DSC on")
    opened = text[:begin] + text[begin:end].replace("# ", "") + text[end:]
    (tmp_path / "x.toml").write_text(opened)
    cells = expand(read_sweep(tmp_path / "x.toml"))
    strategies = {cell.config.strategy for cell in cells}
    assert strategies == {"baseline", "selftrain", "teacher", "masked", "transfer", "multitask"}


def test_the_page_has_every_rule_and_every_scale() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    rules = re.findall(r"`([a-z]+\.[a-z_]+)`", text[text.index("## Rules") : text.index("Scales,")])
    assert {*rules} == {*chosen(unlabelled=1, test=1)}
    for scale in SCALES:
        name, least, *others = [f"{value:g}" if isinstance(value, int | float) else value for value in astuple(scale)]
        assert f"| {name} | {least.replace('-1', '')} | {' | '.join(others)} |".replace("|  |", "| |") in text
