"""pytest on the device: which tests it runs, and what is known of it however it ended."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.gpu import outcomes

SUITE = """
import time, pytest

@pytest.fixture
def broken():
    yield
    raise ValueError("the fixture")

@pytest.mark.gpu
def test_passes(): pass

@pytest.mark.gpu
def test_fails(): assert 1 == 2, "off by /root/x/y.py"

@pytest.mark.gpu
def test_skips(): pytest.skip("no reason")

@pytest.mark.gpu
def test_ends_badly(broken): pass

def test_of_cpus(): pass
"""
HANGS = """
@pytest.mark.gpu
def test_hangs():
    print("here", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a suite of its own, which is the one that is run."""
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(outcomes, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    return tmp_path


def start(root: Path, suite: str) -> subprocess.Popen[str]:
    (root / "tests" / "test_it.py").write_text(suite)
    (root / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    words = outcomes.command(root / "outcomes.jsonl")
    return subprocess.Popen([*words, "-s"], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_what_passed_and_why_others_did_not_is_known(root: Path) -> None:
    process = start(root, SUITE)
    said, _ = process.communicate()
    found = outcomes.found(root / "outcomes.jsonl", said, process.returncode, 3.0)
    assert found.figures == {"tests_passed": 2.0, "tests_failed": 2.0}, said
    name = "tests/test_it.py::test"
    assert found.failed[0].startswith(f"{name}_fails: AssertionError: off by y.py")
    assert found.failed[1:] == [f"{name}_ends_badly: ValueError: the fixture"]
    assert (found.state, found.lines) == ("done", ["2 passed, 2 failed, 1 skipped"])


def test_what_was_over_counts_where_a_test_hangs(root: Path) -> None:
    process = start(root, SUITE + HANGS)
    assert process.stdout is not None
    while "here" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    found = outcomes.found(root / "outcomes.jsonl", "", None, 3.0)
    assert (found.state, found.figures) == ("stopped", {"tests_passed": 2.0, "tests_failed": 2.0})


def test_a_suite_that_cannot_begin_is_a_failure(tmp_path: Path) -> None:
    found = outcomes.found(tmp_path / "absent", "x\nERROR: usage: unknown option\n", 4, 1.0)
    assert (found.state, found.failed) == ("failed", ["pytest ended with 4: ERROR: usage: unknown option"])


def test_whatever_asks_for_a_gpu_runs_on_it() -> None:
    files = {Path(word).name for word in outcomes.command(Path("outcomes.jsonl"))}
    assert {"test_convolution_kernels.py", "test_autotune.py", "test_batches.py", "test_cuda.py"} <= files
    asking = {
        path.name
        for path in (outcomes.ROOT / "tests").rglob("test_*.py")
        if "if torch.cuda.is_available()" in path.read_text() or "skipif(not torch.cuda" in path.read_text()
    }
    assert asking - files <= {"test_outcomes.py"}, "pytest.mark.needs_gpu, or make gpu does not run them"
