"""The published study on disk, with DSCs of its means and SDs: `hpcseg collect` prints the published tables again.

The sweep is planned and recorded from sweeps/paper.toml on datasets of the paper's size; only the training is left out.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from hpcseg.cli import app
from hpcseg.results.tables.published import PublishedTable, read_publication
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import record
from tests.tree import write_tree

SWEEP = Path(__file__).parents[2] / "sweeps" / "paper.toml"
SETS, STRATEGIES, FOLDS = ("validation", "test"), ("baseline", "transfer", "multitask"), 5


def with_moments(count: int, mean: float, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Values in [0, 1] with exactly this mean and sample SD, most above the mean and few far below, as DSCs are."""
    for _ in range(100):
        drawn = -rng.exponential(size=count)
        values = mean + sd * (drawn - drawn.mean()) / drawn.std(ddof=1)
        if values.min() >= 0 and values.max() <= 1:
            return values
    raise ValueError(f"no {count} values in [0, 1] with mean {mean} and SD {sd}")


@pytest.fixture(scope="module")
def published() -> dict[str, PublishedTable]:
    return read_publication("paper").tables


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, published: dict[str, PublishedTable]) -> Path:
    """Folder of all runs: 125 run directories with run.json and result.json."""
    data, runs = write_tree(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("runs")
    for n, path in enumerate(sorted((data / "Task03_Liver" / "imagesTr").iterdir())):
        nib.save(nib.Nifti1Image(np.full((1, 1, 1), n, np.int16), np.diag([0.8, 0.8, 2.5, 1.0])), path)
    plan = make_plan(read_sweep(SWEEP), data, runs)
    record(plan)
    rng = np.random.default_rng(0)
    done: set[str] = set()
    for table in ("table7", "table8"):
        for (strategy, labelled), ids in _cells(plan, table).items():
            if not done.issuperset(ids):
                _finish(plan, ids, {name: published[table].cells[name, labelled, strategy] for name in SETS}, rng)
                done |= set(ids)
    assert len(done) == 125
    return runs


def _cells(plan: Plan, grid: str) -> dict[tuple[str, str], list[str]]:
    """Runs of each strategy and number of labelled volumes, fold by fold."""
    found: dict[tuple[str, str], list[str]] = {}
    for run_id, cells in plan.cells.items():
        for cell in cells:
            if cell["grid"] == grid:
                key = (cell["axes"]["strategy"], str(cell["axes"]["labelled"]))
                found.setdefault(key, []).append(run_id)
    return found


def _finish(plan: Plan, ids: list[str], moments: dict[str, Any], rng: np.random.Generator) -> None:
    """Write the results of the runs of one cell, whose DSCs together have these means and SDs."""
    assert len(ids) == FOLDS
    specs = [plan.stages[run_id].spec for run_id in ids]
    sets: list[dict[str, list[dict[str, Any]]]] = [{} for _ in specs]
    for name, (mean, sd) in moments.items():
        scans = [spec.validation_scans if name == "validation" else spec.test_scans for spec in specs]
        values = iter(with_moments(sum(map(len, scans)), mean, sd, rng).tolist())
        for found, cases in zip(sets, scans, strict=True):
            found[name] = [{"case": case.name, "class": 1, "dsc": next(values)} for case in cases]
    for spec, found in zip(specs, sets, strict=True):
        folder, config = plan.run(spec.id).path, spec.config
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(spec.model_dump_json(indent=1) + "\n")
        keys = {key: getattr(config, key) for key in ("strategy", "labelled", "fold", "seed")}
        made = {"code": {"version": "0.1.0", "torch": "2.11.0", "python": "3.11"}, "hardware": {"device": "H100"}}
        result = {"id": spec.id, **keys, "sets": found, "training": {}, **made, "gpu_hours": 1.0}
        (folder / "result.json").write_text(json.dumps(result, indent=1))


def collect(runs: Path, *options: str) -> Result:
    done = CliRunner().invoke(app, ["collect", "paper", "--runs", str(runs), "--no-figures", *options])
    assert done.exit_code == 0, done.output
    return done


def test_values_with_given_moments_have_them_exactly() -> None:
    values = with_moments(131, 0.788, 0.165, np.random.default_rng(0))
    assert (values.mean(), values.std(ddof=1)) == (pytest.approx(0.788, abs=1e-12), pytest.approx(0.165, abs=1e-12))
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("table", ["table7", "table8"])
def test_collect_prints_exactly_the_published_table(study: Path, table: str, published: Any, tmp_path: Path) -> None:
    printed = collect(study, "--to", str(tmp_path)).output
    cells = published[table].cells
    lines = (tmp_path / f"{table}.md").read_text().splitlines()
    for labelled in dict.fromkeys(row for _, row, _ in cells):
        pairs = [cells[name, labelled, strategy] for name in SETS for strategy in STRATEGIES]
        shown = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in pairs]
        assert f"| {labelled} | {' | '.join(shown)} |" in lines
        assert all(pair in printed for pair in shown)
        assert (
            f"{labelled} & {' & '.join(shown)} \\\\".replace("±", r"$\pm$") in (tmp_path / f"{table}.tex").read_text()
        )
    summary = list(csv.DictReader((tmp_path / f"{table}-summary.csv").open()))
    assert len(summary) == len(cells)
    for line in summary:
        mean, sd = cells[line["set"], line["labelled"], line["strategy"]]
        assert float(line["mean"]) == pytest.approx(mean, abs=1e-12)
        assert float(line["sd"]) == pytest.approx(sd, abs=1e-12)
    runs = list(csv.DictReader((tmp_path / f"{table}-runs.csv").open()))
    assert len(runs) == len(cells) * FOLDS


def test_the_share_of_improved_cells_is_the_papers_75_percent(study: Path, tmp_path: Path) -> None:
    printed = " ".join(collect(study, "--to", str(tmp_path), "--against", "paper").output.split())
    assert (
        "Better than the baseline in 27 of 36 cells (75%) of table7, table8; the paper: 27 of 36 cells (75%)."
        in printed
    )
    assert json.loads((tmp_path / "collection.json").read_text())["improved"]["better"] == 27
    for table, share in (("table7", "22 of 28 cells (79%)"), ("table8", "5 of 8 cells (62%)")):
        text = (tmp_path / f"{table}.md").read_text()
        assert f"Higher than Baseline in {share}, paired by case; the paper: {share}." in text
        cells = json.loads((tmp_path / f"{table}.json").read_text())["cells"]
        assert all(cell["beside_difference"] == pytest.approx(0.0, abs=1e-12) for cell in cells)


def test_deleted_runs_are_marked_as_missing(study: Path, tmp_path: Path, published: Any) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(study, runs)
    deleted = sorted((runs / "train").glob("transfer-n2-f*"))
    for path in deleted[:2]:
        shutil.rmtree(path)
    for path in (runs / "train").glob("multitask-n4-f*"):
        (path / "result.json").unlink()
    done = collect(runs, "--to", str(tmp_path / "results"))
    assert "7 of 125 runs have no result yet" in done.output
    text = (tmp_path / "results" / "table7.md").read_text()
    row = {line.split(" | ")[0]: line.strip("| ").split(" | ") for line in text.splitlines()[:12]}
    assert all(row["| 2"][column].endswith(" (3/5)") for column in (2, 5))
    assert all(row["| 4"][column] == "– (0/5)" for column in (3, 6))
    assert "– or (k/m): 4 of 42 cells have only k of their m runs." in text
    lines = list(csv.DictReader((tmp_path / "results" / "table7-runs.csv").open()))
    missing = {line["run"] for line in lines if line["status"] == "missing"}
    assert {path.name for path in deleted[:2]} < missing
    assert len(missing) == 7
    left = {line.split(" | ")[0] for line in text.splitlines() if line.startswith("| 8 ")}
    assert left == {"| 8"}


def test_an_earlier_collection_stands_beside(study: Path, tmp_path: Path) -> None:
    collect(study, "--to", str(tmp_path / "first"))
    done = collect(study, "--to", str(tmp_path / "second"), "--against", str(tmp_path / "first"))
    assert "27 of 36 cells (75%) of table7, table8; " + str(tmp_path / "first") in done.output.replace("\n", "")
    with (tmp_path / "second" / "table7-summary.csv").open() as file:
        assert all(float(line["beside_difference"]) == 0.0 for line in csv.DictReader(file))


def test_a_metric_that_was_not_measured_is_missing_and_said_to_be(study: Path, tmp_path: Path) -> None:
    collect(study, "--to", str(tmp_path), "--metric", "dsc", "--metric", "hd95", "--against", "paper")
    text = (tmp_path / "table8-hd95.md").read_text()
    assert "30 runs were measured without the HD95, and count as missing" in text
    assert "the paper's table8 is of dsc, this is of hd95" in text
    assert (tmp_path / "table8.md").exists()


def test_json_has_the_tables_whole(study: Path, tmp_path: Path) -> None:
    whole = json.loads(collect(study, "--to", str(tmp_path), "--json").stdout)
    assert (whole["runs"], whole["missing"], whole["improved"]["compared"]) == (125, [], 36)
    cells = whole["tables"][0]["cells"]
    assert len(cells) == 42
    assert {len(cell["values"]) for cell in cells} == {131, 150}
