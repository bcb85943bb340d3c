"""One run of `make gpu`: tests and study side by side, then every part alone, and a page whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpcseg.files import read_json, write_json
from tests.benchmarks.report import shown, verdict
from tests.gpu import tested
from tests.gpu.device import machine_for
from tests.gpu.figures import FIGURES
from tests.gpu.kit import Found
from tests.gpu.material import write_store
from tests.gpu.parts import STUDY, Part
from tests.gpu.report import ALL, TESTS, Results, failed, read_results, write_results
from tests.gpu.sizes import PAPER, TINY
from tests.gpu.worker import MORE, found_file, half_file

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 8.0  # beyond its time, before a part is killed
STARTING_S = 40.0  # until a worker has begun with its first part
TELLING_S = 8.0  # in which an interrupted pytest tells what failed
LOG_TAIL = 6000  # characters of pytest's log that are printed where something failed
_POLL_S = 0.1


class Session:
    """A temporary folder of runs, and the processes that work in it.

    Args:
        kind: "cuda" or "cpu".
        docs: where the page is written.
        end: when all has to be over, in Unix seconds.
    """

    def __init__(self, kind: str, docs: Path, end: float) -> None:
        self._kind, self._docs, self._end = kind, docs, end
        self._sizes = PAPER if kind == "cuda" else TINY
        self._folder = Path(tempfile.mkdtemp(prefix="hpcseg-gpu-"))
        self._began = time.time()
        self._results = Results()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, parts: Sequence[Part], *, keep: bool) -> Results:
        """Run parts; `keep`: what stands on the page of the others stays.

        Returns:
            What stands on the page now.
        """
        before = read_results(self._docs) if keep else Results()
        self._results = replace(before, machine=self._machine(), seconds=0.0)
        if before.machine.get("gpu") == self._results.machine.get("gpu"):
            self._tell(before, parts)
        alone = [part for part in parts if part not in (TESTS, STUDY)]
        tests = self._begin_tests() if TESTS in parts else None
        study = self._begin([STUDY]) if STUDY in parts else None
        try:
            if alone:
                self._write_store()  # while the others are at work
            if tests is not None:
                self._end_tests(tests)
            if study is not None:
                self._end_worker(study, [STUDY], self._began)
            self._alone(alone)
        finally:
            for process in (tests, study):
                if process is not None:
                    _kill(process)
            self._write()
        self._print()
        return self._results

    def _machine(self) -> dict[str, str]:
        """Asked in a process of its own, so that this one keeps no memory of the device."""
        said = self._folder / "machine.json"
        subprocess.run([sys.executable, "-m", "tests.gpu.session", self._kind, str(said)], cwd=ROOT, check=False)
        found: dict[str, str] = read_json(said) if said.exists() else {"gpu": "a GPU that does not say what it is"}
        return found

    def _tell(self, before: Results, parts: Sequence[Part]) -> None:
        """Let parts know the figures of those that stay as they were on the page: ceilings, above all."""
        for part in ALL:
            if part not in parts and part.name in before.parts:
                write_json(found_file(self._folder, part), before.parts[part.name].as_json())

    def _write_store(self) -> None:
        """What needs the store fails by itself where this fails."""
        try:
            write_store(self._folder, self._sizes)
        except Exception:
            traceback.print_exc()

    def _begin_tests(self) -> subprocess.Popen[bytes]:
        print(f"{TESTS.title} ...", flush=True)
        return tested.begin(self._folder / "tests.log")

    def _end_tests(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for pytest as long as it may take; then interrupt it, as it prints why tests failed only at its end."""
        until = min(self._began + TESTS.budget_s, self._end)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(until - time.time(), 0.1))
        status = process.poll()
        if status is None:
            _interrupt(process)
        _kill(process)
        text = (self._folder / "tests.log").read_text(encoding="utf-8", errors="replace")
        found = tested.found(text.splitlines(), status, time.time() - self._began)
        if found.failed or found.state != "done":
            print(text[-LOG_TAIL:], flush=True)
        self._keep(TESTS, found)

    def _alone(self, parts: Sequence[Part]) -> None:
        """Parts that need the device for themselves; a new process for the rest where one failed."""
        left = list(parts)
        while left and time.time() < self._end - GRACE_S:
            left = left[self._end_worker(self._begin(left), left, time.time()) :]
        for part in left:
            self._keep(part, Found(state="not run"))

    def _begin(self, parts: Sequence[Part]) -> subprocess.Popen[bytes]:
        names = [part.name for part in parts]
        words = [sys.executable, "-m", "tests.gpu.worker", str(self._folder), self._kind, str(self._end), *names]
        return subprocess.Popen(words, cwd=ROOT, start_new_session=True)

    def _end_worker(self, process: subprocess.Popen[bytes], parts: Sequence[Part], begun: float) -> int:
        """Follow a worker that began its first part at `begun`; returns how many parts are over, well or not."""
        for count, part in enumerate(parts):
            file = found_file(self._folder, part)
            until = min(begun + part.budget_s + GRACE_S + (0 if count else STARTING_S), self._end)
            while not file.exists() and process.poll() is None and time.time() < until:
                time.sleep(_POLL_S)
            ended = process.poll()
            if not file.exists():
                if ended == MORE and count:
                    return count
                _kill(process)
                self._keep(part, self._half(part, ended, time.time() - begun))
                return count + 1
            self._keep(part, Found.of_json(read_json(file)))
            begun = time.time()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        _kill(process)
        return len(parts)

    def _half(self, part: Part, ended: int | None, seconds: float) -> Found:
        """What a part that was killed, or whose process `ended`, had found; later parts get to know it, too."""
        half = half_file(self._folder, part)
        found = Found.of_json(read_json(half)) if half.exists() else Found()
        found.state = "stopped" if ended is None else "failed"
        if ended is not None:
            found.failed.append(f"its process ended with {ended}")
        found.seconds = round(seconds, 1)
        write_json(found_file(self._folder, part), found.as_json())
        return found

    def _keep(self, part: Part, found: Found) -> None:
        """Put what a part found on the page, at once."""
        self._results = replace(self._results, parts={**self._results.parts, part.name: found})
        self._write()

    def _write(self) -> None:
        self._results = replace(self._results, seconds=round(time.time() - self._began, 1))
        write_results(self._results, self._docs)

    def _print(self) -> None:
        """The figures and what failed, shortly."""
        for figure in FIGURES:
            value = self._results.figures.get(figure.name)
            met = verdict(figure, value)
            bound = f"  must be {figure.bound}: {met}" if met else ""
            print(f"  {figure.name:26} {shown(figure, value):>18}{bound}")
        for name, found in self._results.parts.items():
            for reason in [*found.failed, *([found.state] if failed(name, found) and found.state != "failed" else [])]:
                print(f"  failed: {name}: {reason}")
        print(f"written to {self._docs.name}/benchmarks-gpu.md [{self._results.seconds:.0f} s]", flush=True)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ask a process alone, not those that it started, to come to an end soon."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TELLING_S)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), machine_for(sys.argv[1], 0.0).describe())
