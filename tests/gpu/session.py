"""One run of `make gpu`: one part after the other, the most valuable first, and a page whatever happens.

Parts are measured in one process (`tests.gpu.running`), and what they find is on the page at once; where that process
dies, another goes on with the rest. The tests are pytest's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpcseg.files import read_json, write_json
from tests.benchmarks.report import shown, verdict
from tests.gpu import outcomes, running
from tests.gpu.device import machine_for
from tests.gpu.figures import FIGURES
from tests.gpu.kit import Found, lacking
from tests.gpu.parts import GRACE_S, LATE, TESTS, Part
from tests.gpu.ready import MODULES, absent
from tests.gpu.report import Results, beside, failed, keep, read_results, update_results, write_results

PARTS_LOG, TESTS_LOG = "parts.log", "tests.log"
LOG_TAIL = 6000  # characters of a log that are printed where something failed


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
        store = self._write_store()
        try:
            while (left := self._left(parts)) and time.time() < self._end - GRACE_S:
                if left[0] is TESTS:
                    self._test()
                else:
                    together = left[: left.index(TESTS)] if TESTS in left else left
                    self._follow(self._begin(together), together)
        finally:
            _kill(store)
            for part in self._left(parts):
                keep(self._docs, part, Found(state="not run"))
            seconds = round(time.time() - self._began, 1)
            results = update_results(self._docs, lambda results: replace(results, seconds=seconds))
        self._print(results)
        return results

    def _machine(self) -> dict[str, str]:
        """Asked in a process of its own, so that this one keeps no memory of the device."""
        said = self._folder / "machine.json"
        words = [sys.executable, "-m", "tests.gpu.session", self._kind, str(said)]
        subprocess.run(words, cwd=outcomes.ROOT, check=False)
        found: dict[str, str] = read_json(said) if said.exists() else {"gpu": "a GPU that does not say what it is"}
        return found

    def _write_store(self) -> subprocess.Popen[bytes]:
        """Write the store while the first parts are at work; what needs it waits, and fails where this fails."""
        return self._start([sys.executable, "-m", "tests.gpu.material", self._kind, str(self._folder)], PARTS_LOG)

    def _begin(self, parts: Sequence[Part]) -> subprocess.Popen[bytes]:
        """Start to measure parts, one after the other."""
        print(*(f"{part.title} ..." for part in parts), sep="\n", flush=True)
        where = running.Place(self._kind, self._end, str(self._folder), str(self._docs.resolve()))
        return self._start(running.command(where, list(parts)), PARTS_LOG)

    def _start(self, words: Sequence[str], log: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; all that it says goes to a log beside the page."""
        own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
        own["OMP_WAIT_POLICY"] = "passive"  # threads that wait for one another leave the cores to others
        with (beside(self._docs) / log).open("ab") as file:
            return subprocess.Popen(words, cwd=outcomes.ROOT, env=own, stdout=file, stderr=file, start_new_session=True)

    def _said(self, log: str) -> str:
        path = beside(self._docs) / log
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _left(self, parts: Sequence[Part]) -> list[Part]:
        """Parts that are not over."""
        found = read_results(self._docs).parts
        return [part for part in parts if part.name not in found or found[part.name].state == "at work"]

    def _follow(self, process: subprocess.Popen[bytes], parts: Sequence[Part]) -> None:
        """Wait until a process with parts ends, or has to; of the part at work then, what it had found is kept."""
        ended = _ended(process, self._end)
        left = self._left(parts)
        if ended != 0:
            print(self._said(PARTS_LOG)[-LOG_TAIL:], flush=True)
        if not left or (ended == running.LOST and len(left) < len(parts)):
            return
        found = read_results(self._docs).parts.get(left[0].name)
        if found is None and time.time() > self._end - GRACE_S:
            return
        cut = found or Found()
        cut.state = "stopped" if ended is None or (ended == LATE and found) else "failed"
        if cut.state == "failed":
            cut.failed.append(f"its process ended with {ended}")
        keep(self._docs, left[0], cut)

    def _test(self) -> None:
        """Run the device's tests, in the time that is left for them."""
        if absent(MODULES):
            keep(self._docs, TESTS, Found(state="not run", missing=[lacking()]))
            return
        print(f"{TESTS.title} ...", flush=True)
        ends, began = self._folder / "outcomes.jsonl", time.time()
        process = self._start(outcomes.command(ends), TESTS_LOG, **outcomes.THREADS)
        ended = _ended(process, min(began + TESTS.budget_s, self._end))
        said = self._said(TESTS_LOG)
        found = outcomes.found(ends, said, ended, time.time() - began)
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
            state = [found.state] if failed(name, found) and found.state != "failed" else []
            for what, reasons in (("not here", found.missing), ("failed", [*found.failed, *state])):
                print("".join(f"  {what}: {name}: {reason}\n" for reason in reasons), end="")
        print(f"written to {self._docs.name}/benchmarks-gpu.md [{results.seconds:.0f} s]", flush=True)


def _ended(process: subprocess.Popen[bytes], until: float) -> int | None:
    """How a process ended; None where it had to be ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(until - time.time(), 0.1))
    ended = process.poll()
    _kill(process)
    return ended


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if anything of it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), machine_for(sys.argv[1], 0.0).describe())
