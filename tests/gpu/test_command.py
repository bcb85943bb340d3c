"""The command: a rehearsal of a part on the CPU at toy size, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as command
from tests.gpu import ready
from tests.gpu.outcomes import ROOT
from tests.gpu.report import DOCS, read_results
from tests.waiting import PATIENCE_S


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rehearsed(folder: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--to", str(folder), "--only", *parts]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_rehearsal_of_a_part_runs_to_its_page(tmp_path: Path, storm: Callable[[int, int], int]) -> None:
    """`test_parts` runs them all; here one goes the whole way."""
    if not storm(0, 1):
        pytest.skip("ten seconds: with pytest --all")
    before = state_of(DOCS)
    done = rehearsed(tmp_path, "ceilings")
    (part,) = read_results(tmp_path).parts.values()
    assert (part.state, part.failed, part.late) == ("done", [], []), done.stdout + done.stderr
    assert part.figures["ceiling_copy_gbs"] > 0
    assert "ceiling_copy_gbs" in done.stdout
    assert done.returncode in (0, 1), "1 where a toy misses a bound"
    assert state_of(DOCS) == before, "a rehearsal writes nothing there"


@pytest.mark.parametrize("place", [[], ["--to", str(DOCS)], ["--to", str(DOCS / ".." / "docs")]])
def test_a_rehearsal_never_writes_into_docs(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = state_of(DOCS)
    with pytest.raises(SystemExit) as ended:
        command.main(["--device", "cpu", *place])
    assert ended.value.code == 2
    assert "may not be docs" in capsys.readouterr().err
    assert state_of(DOCS) == before


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--device", "cpu", "--to", str(tmp_path), "--only", "nothing"])
    assert "steps.measure" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ready, "nvidia_gpu", lambda: "")
    assert command.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "make gpu: there is no GPU here, so nothing was measured; docs/benchmarks-gpu.md stays as it was"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_is_missing_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ready, "nvidia_gpu", lambda: "GPU 0: Abacus")
    monkeypatch.setattr(ready, "LEAST", ("torch", "no_such_module"))
    monkeypatch.setattr(ready, "COMPILERS", ("no-such-compiler",))
    assert command.main([]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert "lacks no_such_module, a torch that sees the GPU, a C compiler, for Triton" in line


@pytest.mark.skipif(ready.nvidia_gpu() != "", reason="there is a GPU")
def test_make_gpu_does_nothing_without_a_gpu(tmp_path: Path) -> None:
    before = state_of(DOCS)
    done = subprocess.run(
        ["make", "--no-print-directory", "gpu", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "no GPU" in done.stdout
    assert state_of(DOCS) == before
