"""The sweep files as shipped: what they plan on datasets of the paper's size, and what they say was published."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hpcseg.results.collect import collect
from hpcseg.results.tables.tables import Table, build_table
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import record

ROOT = Path(__file__).parents[2]
SWEEPS = ROOT / "sweeps"
PUBLISHED = ROOT.parent / "shared" / "paper" / "published.toml"
SETS, STRATEGIES = ("validation", "test"), ("baseline", "transfer", "multitask")
SCHEMES = ("freeze_all", "tune_3", "tune_2_3", "tune_1_3", "tune_2_3_retrain_r3")
FILES = {  # training runs, pretraining runs
    "table1": (6, 0),
    "table2": (25, 20),
    "table3": (25, 20),
    "table4": (2, 8),
    "table5": (8, 0),
    "table6": (2, 0),
    "paper": (125, 180),
    "augmentation": (14, 0),
    "preprocessing": (3, 0),
    "gamma": (20, 0),
    "autoencoder": (5, 20),
    "phi": (4, 8),
    "unet": (6, 0),
    "organ": (40, 80),
}
LAYOUTS = {  # rows, columns, sets of each table
    "table1": [(5, 2, 1)],
    "table2": [(5, 5, 1)],
    "table3": [(5, 5, 1)],
    "table4": [(2, 1, 2)],
    "table5": [(2, 4, 2)],
    "table6": [(2, 1, 2)],
    "paper": [(7, 3, 2), (2, 3, 2)],
    "augmentation": [(7, 2, 2)],
    "preprocessing": [(1, 3, 2)],
    "gamma": [(10, 2, 2)],
    "autoencoder": [(4, 2, 2)],
    "phi": [(2, 2, 2)],
    "unet": [(2, 3, 2)],
    "organ": [(2, 2, 2), (2, 2, 2)],
}
NUMBER = r"\d\.\d{3}"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    if not PUBLISHED.is_file():
        pytest.skip(f"the published numbers are not here: {PUBLISHED} is absent")
    return tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def papers_data(write_tree: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of the paper's size; the labelled ones have real headers of 2.5 × 0.8 × 0.8 mm, and one voxel."""
    data = write_tree(tmp_path_factory.mktemp("paper"))
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    for n, path in enumerate(sorted((data / "Task03_Liver" / "imagesTr").iterdir())):
        nib.save(nib.Nifti1Image(np.full((1, 1, 1), n, np.int16), affine), path)
    return data


@pytest.fixture(scope="module")
def plans(papers_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """Every sweep of the paper, planned and recorded below one folder of runs."""
    runs = tmp_path_factory.mktemp("runs")
    made = {name: make_plan(read_sweep(SWEEPS / f"{name}.toml"), papers_data, runs) for name in FILES}
    for plan in made.values():
        record(plan)
    return made


def tables_of(plan: Plan) -> list[Table]:
    collection = collect(plan.runs_root, plan.sweep.name)
    return [build_table(definition, collection) for definition in collection.tables]


def header(name: str) -> str:
    text = (SWEEPS / f"{name}.toml").read_text(encoding="utf-8")
    return "\n".join(line[1:].strip() for line in text.split("\n\n")[0].splitlines())


def runs_at(plan: Plan, **axes: Any) -> set[str]:
    """Ids of the training runs whose cells have these values."""
    wanted = {key.replace("__", "."): value for key, value in axes.items()}
    return {
        run_id
        for run_id, cells in plan.cells.items()
        if any(all(({"grid": cell["grid"]} | cell["axes"]).get(k) == v for k, v in wanted.items()) for cell in cells)
    }


def test_every_sweep_file_is_listed_in_the_docs() -> None:
    documented = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    for path in SWEEPS.glob("*.toml"):
        read_sweep(path)
        assert f"`sweeps/{path.name}`" in documented, path.name
    assert {*FILES} <= {path.stem for path in SWEEPS.glob("*.toml")}


@pytest.mark.parametrize("name", FILES)
def test_a_sweep_plans_the_runs_of_the_paper(name: str, plans: dict[str, Plan]) -> None:
    plan = plans[name]
    assert (len(plan.of_stage("train")), len(plan.of_stage("pretrain"))) == FILES[name]
    assert all(len(planned.spec.test_scans) == 30 for planned in plan.of_stage("train").values())


@pytest.mark.parametrize("name", LAYOUTS)
def test_tables_have_the_layout_of_the_paper(name: str, plans: dict[str, Plan]) -> None:
    tables = tables_of(plans[name])
    assert [(len(t.rows), len(t.columns), len(t.sets)) for t in tables] == LAYOUTS[name]
    for table in tables:
        assert len(table.cells) == len(table.rows) * len(table.columns) * len(table.sets)  # no cell is empty
        folds = 5 if name in ("paper", "organ") else 1
        assert {cell.expected for cell in table.cells.values()} == {folds}
        assert not table.notes


def test_tables_name_rows_and_columns_as_the_paper(plans: dict[str, Plan]) -> None:
    (one,), (two,), (four,), (five,) = (tables_of(plans[name]) for name in ("table1", "table2", "table4", "table5"))
    assert [one.row_label(row) for row in one.rows] == [
        "Kernel size 3 vs. 5",
        "Patch size 64 vs. 72",
        "Minibatch size 6 vs. 8",
        "Focal loss vs. Dice-CE loss",
        "Uniform vs. increasing maps",
    ]
    assert [two.row_label(row) for row in two.rows] == ["8", "16", "32", "64", "all"]
    assert [two.column_label(column) for column in two.columns] == [
        "Freeze: CBR1-CBR3",
        "FT: CBR3",
        "FT: CBR2-CBR3",
        "FT: CBR1-CBR3",
        "FT: CBR2-CBR3 + retrain res. 3",
    ]
    assert [four.row_label(row) for row in four.rows] == ["S-TL with U", "S-TL with U and V"]
    assert [five.column_label(column) for column in five.columns] == ["res. 0", "res. 0-1", "res. 0-2", "res. 0-3"]


def test_table_1_shows_the_setting_kept_where_the_paper_does(plans: dict[str, Plan]) -> None:
    plan = plans["table1"]
    (kept,) = set.intersection(*(runs_at(plan, grid=grid.name) for grid in plan.sweep.grids))
    values = {grid.name: next(iter(grid.axes.values())) for grid in plan.sweep.grids}
    for name, value in {
        "Kernel size 3 vs. 5": 5,
        "Patch size 64 vs. 72": 72,
        "Minibatch size 6 vs. 8": 8,
        "Focal loss vs. Dice-CE loss": "dice_ce",
    }.items():
        assert values[name][1] == value
    assert values["Uniform vs. increasing maps"][0] == 32
    assert runs_at(plans["paper"], strategy="baseline", labelled="all", fold=0) == {kept}


def test_runs_of_several_files_are_made_once(plans: dict[str, Plan]) -> None:
    paper = plans["paper"]
    assert set(plans["table2"].stages) == set(plans["table3"].stages)
    (kept_8,) = runs_at(plans["table2"], labelled=8, transfer__scheme="tune_2_3")
    assert runs_at(paper, grid="table7", strategy="transfer", labelled=8, fold=0) == {kept_8}
    assert runs_at(plans["table4"], grid="S-TL with U and V") == {kept_8}
    assert runs_at(plans["phi"], labelled=8, transfer__phi="fresh") == {kept_8}
    (levels_2,) = runs_at(plans["table5"], labelled=8, multitask__levels=2)
    assert runs_at(paper, grid="table7", strategy="multitask", labelled=8, fold=0) == {levels_2}
    assert runs_at(plans["table6"], grid="S-MTL with U and V") == {levels_2}
    assert runs_at(plans["gamma"], labelled=8, multitask__factor=1.0) == {levels_2}
    baselines = runs_at(paper, grid="table7", strategy="baseline", fold=0)
    assert runs_at(plans["augmentation"], grid="without") == baselines
    assert runs_at(plans["unet"], grid="F-Net") < baselines
    assert runs_at(plans["preprocessing"], grid="method 2, isotropic") < baselines
    assert runs_at(plans["autoencoder"], grid="1 vs. 5 winners", autoencoder__winners=5) < set(paper.stages)
    uniform = runs_at(plans["organ"], autoencoder__sampling="uniform")
    assert uniform == runs_at(paper, grid="table8") - runs_at(paper, grid="table7")


def test_what_is_made_for_all_files_together(plans: dict[str, Plan]) -> None:
    trained = {run_id for plan in plans.values() for run_id in plan.of_stage("train")}
    variants = {
        "table1": 5,
        "table2": 20,  # all but tune_2_3
        "table4": 1,
        "table5": 6,
        "table6": 1,
        "augmentation": 7,
        "preprocessing": 2,
        "gamma": 18,
        "autoencoder": 4,
        "phi": 2,
        "unet": 4,
        "organ": 20,
    }
    assert len(trained) == 125 + sum(variants.values())


def test_preprocessing_differs_in_voxels_and_intensities(plans: dict[str, Plan]) -> None:
    specs = [planned.spec for planned in plans["preprocessing"].of_stage("train").values()]
    seen = [(spec.spacing_zyx, spec.config.preprocessing.intensity) for spec in specs]
    fine, coarse = (2.5, 0.8, 0.8), (2.5, 2.5, 2.5)
    assert seen == [(coarse, "window"), (fine, "percentile"), (coarse, "percentile")]


def expected_numbers(table: str, published: dict[str, Any]) -> list[list[list[float]]]:
    """Published (mean, SD) of each line of a table, in the layout of the paper."""
    one = published[table]
    if table == "table1":
        settings = ("kernel_3", "patch_64", "batch_6", "focal_loss")
        return [[one[name], one["chosen"]] for name in settings] + [[one["chosen"], one["increasing_maps"]]]
    if table in ("table2", "table3"):
        return [[one[scheme][n] for scheme in SCHEMES] for n in range(len(one["n"]))]
    if table in ("table4", "table6"):
        return [[one[name][set_] for set_ in SETS] for name in ("without_validation", "with_validation")]
    if table == "table5":
        return [one[f"{set_}_n{n}"] for set_ in SETS for n in (8, 105)]
    return [[one[set_][strategy][n] for set_ in SETS for strategy in STRATEGIES] for n in range(len(one["n"]))]


@pytest.mark.parametrize(
    ("name", "tables"), [*((f"table{n}", [f"table{n}"]) for n in range(1, 7)), ("paper", ["table7", "table8"])]
)
def test_headers_give_the_published_numbers_exactly(name: str, tables: list[str], published: dict[str, Any]) -> None:
    shown = [re.findall(rf"({NUMBER}) ± ({NUMBER})", line) for line in header(name).splitlines()]
    given = [[[float(mean), float(sd)] for mean, sd in line] for line in shown if line]
    assert given == [line for table in tables for line in expected_numbers(table, published)]
    rows = [line.split("  ")[0] for line, numbers in zip(header(name).splitlines(), shown, strict=True) if numbers]
    if name in ("table2", "table3", "paper"):
        assert rows == [f"n = {n}" for table in tables for n in published[table]["n"]]


@pytest.mark.parametrize("name", FILES)
def test_headers_give_the_command_and_what_it_costs(
    name: str, plans: dict[str, Plan], published: dict[str, Any]
) -> None:
    text = header(name)
    assert f"hpcseg sweep sweeps/{name}.toml --data DATA --plan" in text
    counts = dict.fromkeys(STRATEGIES, 0)
    runs = set(plans[name].of_stage("train"))
    if name == "organ":
        runs -= set(plans["paper"].stages)
    if name == "paper":
        runs = runs_at(plans[name], grid="table7")
    for run_id in runs:
        config = plans[name].stages[run_id].spec.config
        counts[config.strategy] += config.network.kind == "fnet"
    hours = sum(count * published["cost"][strategy] / 5 for strategy, count in counts.items())
    assert f"= {hours:,.0f} GPU hours" in " ".join(text.split())
    assert f"{len(plans[name].of_stage('train'))} training runs" in " ".join(text.split())


def test_the_designs_in_small_have_the_data_and_network_of_the_small_study(shared_data: Path, tmp_path: Path) -> None:
    designs, study = (read_sweep(SWEEPS / f"{name}.toml") for name in ("hippocampus-designs", "hippocampus"))
    of_training = ("augmentation.", "training.")  # as the study's "plain", some of whose runs are these, see below
    designed, studied = (
        {name: value for name, value in sweep.run.items() if not name.startswith(of_training)}
        for sweep in (designs, study)
    )
    assert designed == studied
    began = time.process_time()
    plan = make_plan(designs, shared_data, tmp_path)
    assert time.process_time() - began < 5.0
    assert (len(plan.of_stage("train")), len(plan.of_stage("pretrain"))) == (39, 15)
    assert runs_at(plan, grid="F-Net") < set(make_plan(study, shared_data, tmp_path).stages)
    record(plan)
    shapes = {table.definition.name: (len(table.rows), len(table.columns)) for table in tables_of(plan)}
    assert shapes == {
        "table1": (5, 2),
        "table2": (2, 5),
        "table4": (2, 1),
        "table5": (2, 3),
        "table6": (2, 1),
        "augmentation": (2, 2),
        "gamma": (3, 2),
        "autoencoder": (4, 2),
        "unet": (2, 3),
    }
