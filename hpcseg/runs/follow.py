"""The output of a run's last attempt, and what is added to it while the run goes on."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.paths import ERROR_FILE
from hpcseg.runs.evidence import OPEN, Verdict
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states

POLL_S = 0.5
LIST_S = 5.0  # between two looks for files of a new job
JUDGE_S = 10.0  # between two looks at the run's state, which asks squeue
CHUNK_BYTES = 1 << 20
Write = Callable[[str], None]


def write_output(run: RunDir, write: Write, note: Write) -> None:
    """Write what the run's last attempt has put out, each file after a note of its path.

    Raises:
        BadInput: nothing was written yet.
    """
    output = _Output(run, write, note)
    output.find_files()
    if not output.positions:
        raise BadInput(f"{run.path}: no log yet; hpcseg status --why {run.id} says where it is")
    output.write_new()


def follow(run: RunDir, write: Write, note: Write, *, poll_s: float = POLL_S, judge_s: float = JUDGE_S) -> Verdict:
    """Write what the run has put out and puts out, over requeues and new attempts, until nobody works on it any more.

    Args:
        run: the run.
        write: gets the output.
        note: gets lines about it: the file that is read, changes of the run's state.
        poll_s, judge_s: time between two looks at the files, and at the run's state (which asks squeue).

    Returns:
        How the run stands in the end.
    """
    output, noted = _Output(run, write, note), ""
    judged = listed = -float("inf")
    while True:
        now = time.monotonic()
        if now - listed >= min(LIST_S, judge_s):
            listed = now
            output.find_files()
        if now - judged >= judge_s or run.is_done() or (run.path / ERROR_FILE).exists():
            judged = now
            verdict = read_states([run]).verdicts[run.id]
            if verdict.state not in OPEN:
                output.find_files()
                output.write_new()
                note(f"{run.id} is {verdict.state}: {verdict.why}")
                return verdict
            if verdict.state != noted and (noted or not any(output.positions.values())):
                waits = "" if verdict.state == "running" else "; waits for output, Ctrl-C ends"
                note(f"{run.id} is {verdict.state}: {verdict.why}{waits}")
            noted = verdict.state
        output.write_new()
        time.sleep(poll_s)


class _Output:
    """Everything that a run has written and that was not passed on yet; jobs that come later included.

    Attributes:
        positions: bytes of each file that were passed on.
    """

    def __init__(self, run: RunDir, write: Write, note: Write) -> None:
        self._run, self._write, self._note = run, write, note
        self.positions: dict[Path, int] = {}
        self._decoders: dict[Path, codecs.IncrementalDecoder] = {}
        self._last: Path | None = None

    def find_files(self) -> None:
        """Look for files of the last attempt."""
        for path in self._run.outputs():
            self.positions.setdefault(path, 0)

    def write_new(self) -> None:
        """Pass on what was added, with a note wherever another file begins."""
        for path in self.positions:
            try:
                size = path.stat().st_size
                if size < self.positions[path]:  # written anew
                    self._rewind(path)
                while size > self.positions[path]:
                    text = self._read(path)
                    if path != self._last:
                        self._last = path
                        self._note(str(path))
                    self._write(text)
            except FileNotFoundError:
                self._rewind(path)

    def _read(self, path: Path) -> str:
        with path.open("rb") as file:
            file.seek(self.positions[path])
            piece = file.read(CHUNK_BYTES)
        self.positions[path] += len(piece)
        decoder = self._decoders.setdefault(path, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        return decoder.decode(piece)

    def _rewind(self, path: Path) -> None:
        self.positions[path] = 0
        self._decoders.pop(path, None)
