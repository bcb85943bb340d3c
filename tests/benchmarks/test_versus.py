"""hpcseg beside nnU-Net: the same cases by hpcseg's plan, the table's arithmetic, and what is written of a machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.spec import TrainSpec
from hpcseg.study.plan import Plan
from hpcseg.volumes.scans import read_grid, read_label, write_mask
from tests.benchmarks import nnunet, versus


def measured(tool: str, *, minutes: float | None = None, fold: int = 0, seconds: float = 60.0, **dsc: float):
    one = {"tool": tool, "labelled": 4, "fold": fold, "steps": 100, "train_seconds": seconds, "prediction_seconds": 9.0}
    return one | {"dsc": dsc} | ({} if minutes is None else {"minutes": minutes})


def test_the_table_pairs_hpcseg_with_each_length_of_nnunet() -> None:
    text = versus.table(
        [
            measured("hpcseg recipe", a=0.9, b=0.8),
            measured(versus.NNUNET, minutes=30, seconds=1800, a=0.9, b=0.7),
            measured(versus.NNUNET, minutes=10, seconds=600, a=0.8, b=0.7),
            measured(versus.NNUNET, minutes=10, seconds=600, fold=1, a=0.8, b=0.7),
        ]
    )
    lines = text.splitlines()
    assert lines[0].endswith("| − nnU-Net 10 min | − nnU-Net 30 min |")
    assert lines[2] == "| 4 | nnU-Net | 10.0 | 100 | 0.750 ± 0.058 | 4 (2 × 2) | 0.700 | 9 |  |  |"
    assert lines[4] == (
        "| 4 | hpcseg recipe | 1.0 | 100 | 0.850 ± 0.071 | 2 (1 × 2) | 0.800 | 9 | +0.100 [+0.100, +0.100] | "
        "+0.050 [+0.000, +0.100] |"
    )


def test_what_is_written_is_short_and_without_paths(tmp_path: Path) -> None:
    one = measured(versus.NNUNET, minutes=10, a=0.8) | {"set": ["data.splits=/home/me/s.csv"]}
    text = versus.as_lines(one)
    assert json.loads(text) == one | {"set": ["data.splits=s.csv"]}
    assert text.count("\n") < 20


@pytest.fixture
def given(tiny_dataset: Path, tmp_path: Path) -> argparse.Namespace:
    """Two labelled cases, in a sweep with a grid that is asked for and one that is not."""
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        '[run]\ndata.dataset = "Tiny"\ndata.foreground = [1, 2]\ndata.folds = 2\ndata.splits = "s.csv"\n'
        "patches.size = 16\nnetwork.levels = 2\nnetwork.kernel = 3\n"
        '[[grid]]\nname = "recipe"\nlabelled = [1, 2]\nfold = [0, 1]\n'
        '[[grid]]\nname = "other"\nlabelled = [2]\nfold = [0]\nstrategy = "multitask"\n'
    )
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (tiny_dataset / "imagesTr").iterdir())
    (tmp_path / "s.csv").write_text(f"case,role\n{cases[0]},test\n")
    folders = ["--data", str(tiny_dataset.parent), "--work", str(tmp_path / "work"), "--grids", "recipe"]
    return versus._parser().parse_args(["nnunet", "--labelled", "2", "--fold", "1", "--sweep", str(sweep), *folders])


def spec_of(plan: Plan) -> TrainSpec:
    (planned,) = plan.of_stage("train").values()
    assert isinstance(planned.spec, TrainSpec)
    return planned.spec


def test_cases_are_those_of_hpcsegs_own_run(given: argparse.Namespace) -> None:
    plan = versus.plan_of(given, ["recipe"])
    spec = spec_of(plan)
    assert (spec.config.labelled, spec.config.fold) == (2, 1)
    assert tuple(case.name for case in versus.labelled_cases(plan, spec)) == spec.labelled.cases
    with pytest.raises(BadInput, match=r"--grid plain: .* has no such grid; it has: recipe, other"):
        versus.plan_of(given, ["plain"])
    given.set = ["data.splits="]
    with pytest.raises(SystemExit, match="sets no labelled test cases aside"):
        versus.plan_of(given, ["recipe"])


def test_nnunet_gets_links_to_images_and_labels_of_the_runs_classes(given: argparse.Namespace, tmp_path: Path) -> None:
    plan = versus.plan_of(given, ["recipe"])
    spec = spec_of(plan)
    cases = versus.labelled_cases(plan, spec)
    dataset = nnunet._write_raw(spec, cases, tmp_path / "raw")
    assert dataset["labels"] == {"background": 0, "class1": 1}
    for case in cases:
        image = tmp_path / "raw" / "imagesTr" / f"{case.name}_0000.nii.gz"
        assert image.is_symlink() and image.resolve() == case.image.resolve()
        label = read_label(tmp_path / "raw" / "labelsTr" / f"{case.name}.nii.gz", read_grid(case.image))
        assert case.label is not None
        assert ((label == 1) == (read_label(case.label, read_grid(case.image)) > 0)).all()


def test_a_mask_is_measured_by_hpcsegs_metric(given: argparse.Namespace, tmp_path: Path) -> None:
    plan = versus.plan_of(given, ["recipe"])
    spec = spec_of(plan)
    scan = versus.labelled_cases(plan, spec)[0]
    assert scan.label is not None
    mask_zyx = (read_label(scan.label, read_grid(scan.image)) > 0).astype("uint8")
    same = spec.model_copy(update={"test_classes": spec.classes})
    write_mask(tmp_path / "mask.nii.gz", mask_zyx, like=scan.image)
    assert versus.dsc(tmp_path / "mask.nii.gz", scan, same) == 1.0
    write_mask(tmp_path / "none.nii.gz", 0 * mask_zyx, like=scan.image)
    assert versus.dsc(tmp_path / "none.nii.gz", scan, same) == 0.0
