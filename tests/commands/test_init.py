"""From folders that nobody prepared to a plan, and from one of them to a result; each without editing a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpcseg.files import read_json
from hpcseg.study.plan import make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.volumes.datasets import open_dataset
from tests.commandline import Cli, call, checked
from tests.planned import run_here

Fill = Callable[..., Path]

TINY = (
    *("patches.size=12", "network.levels=2", "network.maps=2", "augmentation.elastic=0", "training.epochs=2"),
    *("training.steps=2", "training.validation_steps=1", "training.batch=2"),
)


@pytest.fixture
def here(tmp_path: Path) -> Cli:
    """`hpcseg` in this process."""
    return lambda *arguments, code=0: checked(call(tmp_path, *arguments), code)


@pytest.fixture
def fill(tmp_path: Path, write_scan) -> Fill:
    """Write scans with a bright block each, and labels where asked for, under names that are given."""

    def write(folder: str, image: str, label: str, labelled: int, unlabelled: int, *, low: float = 0.0) -> Path:
        for n in range(1, labelled + unlabelled + 1):
            rng = np.random.default_rng(n)
            mask = np.zeros((20, 18, 16), np.uint8)
            mask[tuple(slice(start, start + 6) for start in rng.integers(3, 9, 3))] = 1
            values = rng.normal(40, 5, mask.shape) + 80 * mask
            values[0] = low
            write_scan(tmp_path / folder / f"{image.format(n)}.nii.gz", values.astype(np.int16))
            if n <= labelled:
                write_scan(tmp_path / folder / f"{label.format(n)}.nii.gz", mask)
        return tmp_path / folder

    return write


FOLDERS = {
    "plain": (
        ("images/scan{}", "labels/scan{}", 4, 0),
        "images and labels in folders of their own",
        [f"scan{n}" for n in range(1, 5)],
    ),
    "bids": (
        ("sub-0{0}/anat/sub-0{0}_T1w", "derivatives/labels/sub-0{0}/anat/sub-0{0}_dseg", 3, 1),
        "BIDS",
        ["sub-01", "sub-02", "sub-03"],
    ),
    "nnunet": (
        ("imagesTr/p_{}_0000", "labelsTr/p_{}", 4, 1),
        "nnU-Net layout without dataset.json",
        [f"p_{n}" for n in range(1, 5)],
    ),
    "mess": (("old/visit {}", "old/visit {}_seg", 4, 2), "pairs by name", [f"visit_{n}" for n in range(1, 5)]),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_nobody_prepared_becomes_a_plan(kind: str, fill: Fill, here: Cli, tmp_path: Path) -> None:
    (image, label, labelled, unlabelled), layout, names = FOLDERS[kind]
    folder = fill(f"data/{kind}", image, label, labelled, unlabelled, low=-900 if kind == "nnunet" else 0)
    before = sorted(folder.rglob("*"))
    asked = here("init", folder, code=2)
    assert f"hpcseg init {folder} --write-dataset writes one" in asked.stderr
    assert sorted(folder.rglob("*")) == before and not (tmp_path / "study.toml").exists()

    done = here("init", folder, "--write-dataset", "--gpu-memory", 0)
    assert layout in done.stdout and f"{labelled} scans with labels" in done.stdout
    assert {*folder.rglob("*")} - {*before} == {folder / "dataset.json"}
    dataset = open_dataset(folder)
    assert [case.name for case in dataset.training] == names and len(dataset.test) == unlabelled
    assert dataset.labels == {0: "background", 1: "label 1"} and dataset.is_ct == (kind == "nnunet")
    run = read_sweep(tmp_path / "study.toml").run
    assert run["preprocessing.intensity"] == ("percentile" if dataset.is_ct else "zscore")
    assert run.get("data.unlabelled_ts", False) == bool(unlabelled)

    plan = json.loads(here("sweep", "study.toml", "--data", tmp_path / "data", "--plan", "--json").stdout)
    assert plan["total_training_runs"] > 0 and plan["notes"] == []


def test_a_mess_becomes_a_result(fill: Fill, here: Cli, tmp_path: Path) -> None:
    folder = fill("data/mess", *FOLDERS["mess"][0])
    shutil.copy(folder / "old/visit 5.nii.gz", folder / "visit-9.nii.gz")
    (folder / "old/visit 6.nii.gz").write_bytes(b"no scan")
    done = here("init", folder, "--write-dataset", "--to", "my.toml", "--gpu-memory", 0)
    names = [case.name for case in open_dataset(folder).test]
    assert names == ["visit-9", "visit_5"]
    assert "left out" in done.stderr and "visit 6.nii.gz" in done.stderr
    settings = (*TINY, "labelled=2", "fold=0")
    plan = make_plan(read_sweep(tmp_path / "my.toml", settings), tmp_path / "data", tmp_path / "runs")
    run_here(plan, plan.stages)
    assert plan.counts() == {"pack": {"new": 2}, "pretrain": {}, "label": {"new": 2}, "train": {"new": 2}}
    results = [read_json(path) for path in tmp_path.glob("runs/train/*/result.json")]
    assert [len(result["sets"]["validation"]) for result in results] == [1, 1]


def test_mistakes_are_one_line_and_nothing_is_written(fill: Fill, here: Cli, tmp_path: Path) -> None:
    folder = fill("data/d", "a{}", "a{}_seg", 2, 0)
    (tmp_path / "study.toml").write_text("mine")
    assert "--force to replace it" in here("init", folder, code=2).stderr
    assert (tmp_path / "study.toml").read_text() == "mine"
    assert "no such folder" in here("init", tmp_path / "none", "--to", "x.toml", code=2).stderr
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "1.dcm").write_bytes(b"x")
    assert (
        "no NIfTI scan (.nii.gz, .nii) in it, but .dcm"
        in here("init", tmp_path / "empty", "--to", "x.toml", code=2).stderr
    )
    assert "of letters, digits, - _ and ." in here("init", folder, "--to", "my study.toml", code=2).stderr
    (tmp_path / "empty" / "1.dcm").rename(tmp_path / "empty" / "1.NII")
    assert "rename them" in here("init", tmp_path / "empty", "--to", "x.toml", code=2).stderr
    (folder / "list.csv").write_text("image,label\na1.nii.gz,a3_seg.nii.gz\n")
    assert "list.csv: line 2: no scan 'a3_seg.nii.gz'" in here("init", folder, "--to", "x.toml", code=2).stderr
    (folder / "list.csv").write_text("image,label\na1.nii.gz,a1_seg.nii.gz\na2.nii.gz,\n")
    one = here("init", folder, "--to", "x.toml", "--write-dataset", code=2).stderr
    assert "1 patient with a label that can be read and has voxels; two are needed" in one
    assert not (tmp_path / "x.toml").exists() and not (folder / "dataset.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Task04_Hippocampus", {"data.groups": "pairs", "patches.size": 24, "augmentation.mirror": ["x"]}),
        ("Task03_LiverCT", {"data.groups": "splits.json", "preprocessing.spacing": 3.14, "data.unlabelled_ts": True}),
        ("Task92_LeftAtrium", {"network.levels": 4, "augmentation.brightness": 0.5, "augmentation.mirror": []}),
    ],
)
def test_real_volumes(
    name: str, expected: dict[str, object], shared_data: Path, here: Cli, tmp_path: Path, storm
) -> None:
    if not storm(0, 1):
        pytest.skip("reads every voxel of a real dataset: pytest --all")
    here("init", shared_data / name, "--gpu-memory", 0)
    run = read_sweep(tmp_path / "study.toml").run
    assert {key: run[key] for key in expected} == expected
