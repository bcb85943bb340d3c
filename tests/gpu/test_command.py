"""The command: a rehearsal of every part on the CPU at toy size, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as command
from tests.gpu import ready
from tests.gpu.parts import PARTS, STUDY
from tests.gpu.report import DOCS, read_results
from tests.gpu.session import ROOT
from tests.waiting import PATIENCE_S


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rehearsed(folder: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--to", str(folder), "--only", *parts]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_every_part_runs_at_toy_size_on_a_cpu(tmp_path: Path) -> None:
    before = state_of(DOCS)
    names = [part.name for part in PARTS if part.name != "steps.compiled"]
    done = rehearsed(tmp_path, *names)
    found = read_results(tmp_path)
    assert list(found.parts) == names, done.stdout + done.stderr
    for name in names:
        part = found.parts[name]
        assert (part.state, part.failed, part.late) == ("done", [], []), f"{name}\n{done.stdout}\n{done.stderr}"
        assert part.tables or name == "steps.measure", "a CPU may have no 16 bits"
        assert all("instructions" in reason for reason in part.missing), part.missing
    known = found.figures
    for figure in (
        "ceiling_copy_gbs",
        "step_float32_ms",
        "gather_ms",
        "busy_resident",
        "busy_streamed",
        "decoder_ratio_gpu",
        "autoencoder1_ms",
        "multitask_ms",
        "validation_step_ms",
    ):
        assert known[figure] > 0, figure
    assert done.returncode in (0, 1), "1 where a toy misses a bound"
    assert state_of(DOCS) == before, "a rehearsal writes nothing there"


def test_the_study_of_precision_runs_at_toy_size_on_a_cpu(tmp_path: Path) -> None:
    done = rehearsed(tmp_path, STUDY.name)
    found = read_results(tmp_path).parts[STUDY.name]
    assert (found.state, found.failed) == ("done", []), done.stdout + done.stderr
    assert "dsc_float32" in found.figures
    assert found.tables[0].rows[0][0] == "float32"
    assert not any(name.endswith("_margin") for name in found.figures), "of two seeds there is no spread"


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
    monkeypatch.setattr(ready, "MODULES", ("torch", "no_such_module"))
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
