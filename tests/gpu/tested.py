"""pytest on the device, as a part of `make gpu`: what passed, what failed and why, even if time runs out."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from hpcseg.host import usable_cores
from tests.gpu.kit import Found, plain

ROOT = Path(__file__).resolve().parents[2]
SUITES = (
    "tests/networks/test_*kernel*.py",
    "tests/networks/test_convolution*.py",
    "tests/networks/test_norm*.py",
    "tests/networks/test_merging*.py",
    "tests/networks/test_losses*.py",
    "tests/networks/test_tuning*.py",
    "tests/patches/test_*kernel*.py",
    "tests/patches/test_prefetch*.py",
    "tests/patches/test_resident*.py",
    "tests/training/test_cuda*.py",
    "tests/training/test_graphs*.py",
    "tests/training/test_reports*.py",
    "tests/training/test_tuning*.py",
    "tests/training/test_update*.py",
    "tests/gpu/test_on_device.py",
)
MOST_WORKERS = 6  # they share the GPU, and compile on a core each
THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}  # of processes that run side by side
LONGEST_S = 120  # that one test may take
_OUTCOME = re.compile(
    r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[\s*\d+%\]|\[\s*\d+%\]\s*(PASSED|FAILED|ERROR|SKIPPED)\b"
)
_REASON = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - (.*))?$")


def command() -> list[str]:
    """pytest, in several processes where it can."""
    files = [str(path.relative_to(ROOT)) for pattern in SUITES for path in sorted(ROOT.glob(pattern))]
    spread = importlib.util.find_spec("xdist") is not None and usable_cores() > 2
    workers = ["-n", str(min(MOST_WORKERS, usable_cores() // 2))] if spread else []
    quiet = ["-p", "no:cacheprovider", "--color=no", "--tb=short", "-rfE", "-vv"]
    return [sys.executable, "-m", "pytest", *quiet, f"--timeout={LONGEST_S}", *workers, *dict.fromkeys(files)]


def begin(log: Path) -> subprocess.Popen[bytes]:
    """Start pytest in a process group of its own; it writes to `log`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or pytest is as deaf to it as a shell's background job
    with log.open("wb") as file:
        return subprocess.Popen(
            command(),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | THREADS,
        )


def found(lines: Iterable[str], status: int | None, seconds: float) -> Found:
    """What the log of a run tells; `status` is None where it was stopped. Pure."""
    counts = {"PASSED": 0, "FAILED": 0, "ERROR": 0, "SKIPPED": 0}
    reasons, last = {}, ""
    for line in lines:
        outcome = _OUTCOME.search(line)
        if outcome:
            word = outcome[1] or outcome[2]
            counts[word] = counts.get(word, 0) + 1
        reason = _REASON.match(line)
        if reason:
            reasons[reason[1]] = reason[2] or ""
        last = line if line.strip() else last
    bad = counts["FAILED"] + counts["ERROR"]
    this = Found(seconds=round(seconds, 1), state="stopped" if status is None else "done")
    this.figures = {"tests_passed": float(counts["PASSED"]), "tests_failed": float(bad)}
    this.failed = [plain(f"{name}: {reason}") for name, reason in reasons.items()]
    if bad and not reasons:
        this.failed.append(f"{bad} tests failed")
    if status not in (None, 0, 1):
        this.state = "failed"
        this.failed.append(plain(f"pytest ended with {status}: {last}"))
    this.lines.append(f"{counts['PASSED']} passed, {bad} failed, {counts['SKIPPED']} skipped")
    return this
