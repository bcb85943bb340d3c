"""`python -m tests.benchmarks [NAME ...]`: measure, and write `docs/benchmarks.*`.

A name is that of a room (patches), a benchmark (packing) or a figure (pack_peak_ratio); without one, all are measured.
Every benchmark runs in a process of its own; what it finds is merged with what stands in `docs/`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hpcseg.files import read_json
from tests.benchmarks.figures import Benchmark
from tests.benchmarks.registry import BENCHMARKS, chosen
from tests.benchmarks.report import read_results, shown, verdict, write_results

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-peers"
THREADS = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}  # benchmarks choose for themselves


def main(arguments: list[str]) -> int:
    """Measure and write; 1 if a benchmark failed, 0 otherwise, whether or not all bounds hold."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure, and write docs/benchmarks.*"
    )
    parser.add_argument("names", nargs="*", help="rooms, benchmarks or figures; default: all")
    parser.add_argument("--page", action="store_true", help="measure nothing, only write the page again")
    given = parser.parse_args(arguments)
    try:
        todo = [] if given.page else chosen(given.names)
    except ValueError as error:
        parser.error(str(error))
    failed = False
    for one in todo:
        failed |= not _measure(one)
    if given.page:
        write_results(read_results(), BENCHMARKS)
    return int(failed)


def _measure(one: Benchmark) -> bool:
    """Measure one benchmark, print what it found and write it; whether it went well."""
    print(f"{one.title} ...", flush=True)
    begin = time.monotonic()
    found = _found(one)
    if "failed" in found:
        print(f"  failed: {found['failed']}; its figures stay as they were", flush=True)
        return False
    if "skipped" in found:
        print(f"  skipped: {found['skipped']}; its figures stay as they were", flush=True)
        return True
    for figure in one.figures:
        value = found["figures"][figure.name]
        bound = f"  must be {figure.bound}: {verdict(figure, value)}" if figure.bound else ""
        print(f"  {figure.name:22} {shown(figure, value):>12}{bound}")
    for label, text in found["details"].items():
        print(f"    {label}: {text}")
    print(f"  [{time.monotonic() - begin:.0f} s]", flush=True)
    write_results(read_results().merged(one.title, found), BENCHMARKS)
    return True


def _found(one: Benchmark) -> dict[str, Any]:
    """What a process of its own finds: see `measure`; or {"failed": why}."""
    python = PEERS / "bin" / "python" if one.peers else Path(sys.executable)
    if one.peers and not (PEERS / "ready").exists():
        return {"skipped": "no environment with the other tools (make bench-peers makes it)"}
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "found.json"
        command = [str(python), "-W", "ignore", "-m", "tests.benchmarks.measure", one.title, str(answer)]
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        return read_json(answer) if answer.exists() else {"failed": f"exit status {status}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
