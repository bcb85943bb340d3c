"""Whole studies on a real cluster, through the command line alone."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import call
from tests.slurm.cluster import Cluster
from tests.waiting import PATIENCE_S

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
AXES = """
strategy = [{strategy}]
labelled = [2]
fold = [{fold}]

[[table]]
name = "dsc"
grid = "main"
rows = "labelled"
columns = "strategy"
over = ["fold"]
sets = ["validation"]
"""
PROFILE = """
[slurm]
partition = "main"
setup = ["export NODE_DISK={disk}"]
pack = {{ time = 5, cpus = 1, memory = "900M", gpus = 0 }}
pretrain = {{ time = 5, cpus = 1, memory = "900M", gpus = 1, signal_lead = 30 }}
train = {{ time = 5, cpus = 1, memory = "900M", gpus = 1, signal_lead = 30 }}
"""
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
Asked = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hpcseg(tmp_path: Path) -> Asked:
    """Call `hpcseg` with the folder of runs of this test."""
    return lambda *words: call(tmp_path, *words, "--runs", tmp_path / "runs")


def command(words: Iterable[str], folder: Path) -> list[str]:
    return [sys.executable, "-m", "hpcseg", *words, "--runs", str(folder / "runs")]


def answer(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def said(done: subprocess.CompletedProcess[str]) -> Any:
    """What a command printed as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_sweep(folder: Path, name: str, strategy: str, fold: str, profile: str = PROFILE) -> Path:
    text = STUDY.partition('strategy = ["baseline"]')[0].replace("epochs = 2", "epochs = 1")
    path = folder / f"{name}.toml"
    path.write_text(text + AXES.format(strategy=strategy, fold=fold).lstrip())
    (folder / "profile.toml").write_text(profile.format(disk=folder / "node"))
    return path


def submit_words(sweep: Path, data: Path) -> list[str]:
    small = [word for key in ("epochs=1", "steps=1") for word in ("--set", f"autoencoder.{key}")]
    places = ["--data", str(data), "--jobs", str(sweep.with_name("profile.toml"))]
    return ["sweep", str(sweep), "--on", "slurm", *places, *small, "--json"]


@pytest.mark.parametrize("kind", ["accounted", "slurm"])
def test_two_sweeps_run_to_their_tables(
    kind: str,
    request: pytest.FixtureRequest,
    hpcseg: Asked,
    tiny_dataset: Path,
    tmp_path: Path,
    storm: Callable[[int, int], int],
) -> None:
    """With accounting, and with a sacct that fails: the second sweep's runs wait for jobs of the first."""
    if kind == "slurm" and not storm(0, 1):
        pytest.skip("without accounting with pytest --all; other files of this folder have none either")
    cluster: Cluster = request.getfixturevalue(kind)
    works = subprocess.run(["sacct"], capture_output=True, check=False).returncode == 0
    assert works == (kind == "accounted")
    both = '"baseline", "transfer"'
    sweeps = [write_sweep(tmp_path, "first", both, "0"), write_sweep(tmp_path, "second", '"transfer"', "1")]
    again = [submit_words(sweep, tiny_dataset.parent) for sweep in sweeps]

    def states() -> Counter[str]:
        return Counter(line["state"] for line in said(hpcseg("status", "--json")))

    submitted = [said(hpcseg(*words, "--stage", "$NODE_DISK"))["submitted"] for words in again]
    assert set(states()) <= {"queued", "running", "done"}
    assert [len(runs) for runs in submitted] == [1 + 2 + 2, 1]

    cluster.wait(cluster.is_free)
    assert states() == {"done": 6}
    assert said(hpcseg(*again[1]))["submitted"] == []
    (last,) = submitted[1]
    train = tmp_path / "runs" / "train" / last
    assert json.loads((train / "result.json").read_text())["id"] == last
    (reading,) = json.loads((train / "training.json").read_text())["reading"]
    assert reading["path"].startswith(str(tmp_path / "node"))  # a variable that the job alone knows
    assert "completed successfully" in hpcseg("logs", last).stdout  # of the job, not of srun

    collecting = [["collect", name, "--to", str(tmp_path / name)] for name in ("first", "second")]
    processes = [subprocess.Popen(command(words, tmp_path), **PIPES) for words in collecting]
    for done in map(answer, processes):
        assert done.returncode == 0 and "no result yet" not in done.stdout, done.stderr
    with (tmp_path / "first" / "dsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["strategy"], row["status"]) for row in rows} == {("baseline", "present"), ("transfer", "present")}
