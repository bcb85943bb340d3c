"""pytest on the device, as a part of `make gpu`: a plugin that writes how each test ended at once, and its reader."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.host import usable_cores
from tests.gpu.parts import Watchdog

if TYPE_CHECKING:
    import pytest

    from tests.gpu.kit import Found

ROOT = Path(__file__).resolve().parents[2]
MOST_WORKERS = 6  # they share the GPU, and compile on a core each
THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}  # of processes that run side by side
LONGEST_S = 120  # that one test may take
_ASKS_FOR_GPU = re.compile(r"\bkernel_device\b|\bmark\.(needs_)?gpu\b")


def command(outcomes: Path) -> list[str]:
    """`pytest -m gpu` on the files with such tests: others may need packages that a GPU's machine lacks."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if _ASKS_FOR_GPU.search(path.read_text())]
    spread = importlib.util.find_spec("xdist") is not None and usable_cores() > 2
    workers = ["-n", str(min(MOST_WORKERS, usable_cores() // 2))] if spread else []
    said = ["-p", "no:cacheprovider", "--color=no", "--tb=short", f"--timeout={LONGEST_S}"]
    noted = ["-p", "tests.gpu.outcomes", f"--outcomes={outcomes}"]
    words = [sys.executable, "-m", "pytest", "-m", "gpu", *said, *noted, *workers]
    return [*words, *(str(path.relative_to(ROOT)) for path in files)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="file for one line of JSON for each test that is over")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the reports of xdist's processes come to the one that began them
        Watchdog()
        config.pluginmanager.register(_Writer(config.getoption("--outcomes")))


class _Writer:
    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else str(report.longrepr or "").strip().rpartition("\n")[2]
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([report.nodeid, report.outcome, why]) + "\n")


def found(outcomes: Path, said: str, status: int | None, seconds: float) -> Found:
    """What is known of a run.

    Args:
        outcomes: file of the plugin; may be absent.
        said: what pytest printed.
        status: how it ended; None where it was stopped.
        seconds: that it took.
    """
    from tests.gpu.kit import Found, plain

    lines = outcomes.read_text(encoding="utf-8").splitlines() if outcomes.exists() else []
    ends = [json.loads(line) for line in lines if line.endswith("]")]  # the last may be half a line
    count = Counter(outcome for _, outcome, _ in ends)
    this = Found(seconds=round(seconds, 1), state="stopped" if status is None else "done")
    this.figures = {"tests_passed": float(count["passed"]), "tests_failed": float(count["failed"])}
    this.failed = [plain(f"{test}: {why}") for test, outcome, why in ends if outcome == "failed"]
    if status not in (None, 0, 1):
        this.state = "failed"
        this.failed.append(plain(f"pytest ended with {status}: {said.strip().rpartition(chr(10))[2]}"))
    this.lines.append(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return this
