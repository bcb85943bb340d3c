"""One run of `make gpu`: tests and study side by side, then every part alone, and a page whatever happens.

pytest runs them all, and what they find is on the page at once; this begins it again where a process of it died.
"""

from __future__ import annotations

import contextlib
import json
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
from tests.gpu import outcomes
from tests.gpu.device import machine_for
from tests.gpu.figures import FIGURES
from tests.gpu.kit import Found
from tests.gpu.material import write_store
from tests.gpu.parts import GRACE_S, STUDY, Part
from tests.gpu.report import TESTS, Results, failed, keep, read_results, update_results, write_results
from tests.gpu.sizes import PAPER, TINY

LOG_TAIL = 6000  # characters of pytest's log that are printed where something failed
LOST = 70  # how pytest ends after a part that broke the device's context; see tests/conftest.py


class Session:
    """A temporary folder of runs, and the processes that work in it.

    Args:
        kind: "cuda" or "cpu".
        docs: where the page is written.
        end: when all has to be over, in Unix seconds.
    """

    def __init__(self, kind: str, docs: Path, end: float) -> None:
        self._kind, self._docs, self._end = kind, docs, end
        self._folder = Path(tempfile.mkdtemp(prefix="hpcseg-gpu-"))
        self._began = time.time()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, parts: Sequence[Part], *, keep_others: bool) -> Results:
        """Run parts; `keep_others`: what this very GPU found of the others stays on the page, and is known to these.

        Returns:
            What stands on the page now.
        """
        machine, before = self._machine(), read_results(self._docs)
        names = {part.name for part in parts}
        same = keep_others and before.machine.get("gpu") == machine.get("gpu")
        others = {name: found for name, found in before.parts.items() if same and name not in names}
        write_results(Results(machine, others), self._docs)
        alone = [part for part in parts if part not in (TESTS, STUDY)]
        beside = {part: self._begin([part]) for part in (TESTS, STUDY) if part in parts}
        try:
            if alone:
                self._write_store()  # while the others are at work
            for part, process in beside.items():
                self._follow(process, [part], self._began + part.budget_s)
            while (left := self._left(alone)) and time.time() < self._end - GRACE_S:
                self._follow(self._begin(left), left, self._end)
        finally:
            for process in beside.values():
                _kill(process)
            for part in self._left(parts):
                keep(self._docs, part, Found(state="not run"))
            seconds = round(time.time() - self._began, 1)
            results = update_results(self._docs, lambda results: replace(results, seconds=seconds))
        self._print(results)
        return results

    def _machine(self) -> dict[str, str]:
        """Asked in a process of its own, so that this one keeps no memory of the device."""
        said = self._folder / "machine.json"
        subprocess.run([sys.executable, "-m", "tests.gpu.session", self._kind, said], cwd=outcomes.ROOT, check=False)
        found: dict[str, str] = read_json(said) if said.exists() else {"gpu": "a GPU that does not say what it is"}
        return found

    def _write_store(self) -> None:
        """What needs the store fails by itself where this fails."""
        try:
            write_store(self._folder, PAPER if self._kind == "cuda" else TINY)
        except Exception:
            traceback.print_exc()

    def _begin(self, parts: Sequence[Part]) -> subprocess.Popen[bytes]:
        """Start pytest with the device's tests, or with parts one after the other, in a process group of its own."""
        print(*(f"{part.title} ..." for part in parts), sep="\n", flush=True)
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        if TESTS in parts:
            with self._log.open("wb") as log:
                return subprocess.Popen(
                    outcomes.command(self._outcomes),
                    cwd=outcomes.ROOT,
                    env=environment | outcomes.THREADS,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        environment["HPCSEG_GPU"] = json.dumps([self._kind, self._end, str(self._folder), str(self._docs.resolve())])
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "--tb=short"]
        words += [f"tests/gpu/test_parts.py::test_part[{part.name}]" for part in parts]
        return subprocess.Popen(words, cwd=outcomes.ROOT, env=environment, start_new_session=True)

    @property
    def _outcomes(self) -> Path:
        return self._folder / "outcomes.jsonl"

    @property
    def _log(self) -> Path:
        return self._folder / "tests.log"

    def _left(self, parts: Sequence[Part]) -> list[Part]:
        """Parts that are not over."""
        found = read_results(self._docs).parts
        return [part for part in parts if part.name not in found or found[part.name].state == "at work"]

    def _follow(self, process: subprocess.Popen[bytes], parts: Sequence[Part], until: float) -> None:
        """Wait until a process with parts ends, or has to; of the part at work then, what it had found is kept."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(min(until, self._end) - time.time(), 0.1))
        ended = process.poll()
        _kill(process)
        if TESTS in parts:
            self._end_tests(ended)
            return
        left = self._left(parts)
        if not left or (ended == LOST and len(left) < len(parts)):
            return
        found = read_results(self._docs).parts.get(left[0].name)
        if found is None and time.time() > self._end - GRACE_S:
            return
        cut = found or Found()
        cut.state = "stopped" if ended is None or (ended == 1 and found) else "failed"  # 1: pytest ended it in time
        if cut.state == "failed":
            cut.failed.append(f"its process ended with {ended}")
        keep(self._docs, left[0], cut)

    def _end_tests(self, ended: int | None) -> None:
        said = self._log.read_text(encoding="utf-8", errors="replace")
        found = outcomes.found(self._outcomes, said, ended, time.time() - self._began)
        if found.failed or found.state != "done":
            print(said[-LOG_TAIL:], flush=True)
        keep(self._docs, TESTS, found)

    def _print(self, results: Results) -> None:
        """The figures and what failed, shortly."""
        for figure in FIGURES:
            value = results.figures.get(figure.name)
            met = verdict(figure, value)
            bound = f"  must be {figure.bound}: {met}" if met else ""
            print(f"  {figure.name:26} {shown(figure, value):>18}{bound}")
        for name, found in results.parts.items():
            for reason in [*found.failed, *([found.state] if failed(name, found) and found.state != "failed" else [])]:
                print(f"  failed: {name}: {reason}")
        print(f"written to {self._docs.name}/benchmarks-gpu.md [{results.seconds:.0f} s]", flush=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if anything of it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), machine_for(sys.argv[1], 0.0).describe())
