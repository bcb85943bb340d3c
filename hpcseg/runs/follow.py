"""The output of a run's last attempt, and what is added to it while the run goes on."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpcseg.paths import ERROR_FILE
from hpcseg.runs.evidence import OPEN, Verdict
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import judge_all

POLL_S = 0.5
LOOK_S = 5.0  # for files of a new job
JUDGE_S = 10.0  # squeue is asked
CHUNK_BYTES = 1 << 20
Write = Callable[[str], None]


class Output:
    """Everything that a run has written and that was not read yet, in pieces; jobs that come later included."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._read: dict[Path, int] = {}
        self._decoders: dict[Path, codecs.IncrementalDecoder] = {}

    @property
    def begun(self) -> bool:
        """Whether anything was read."""
        return any(self._read.values())

    def look(self) -> None:
        """Look for files of the last attempt."""
        for path in self._run.outputs():
            self._read.setdefault(path, 0)

    def new(self) -> Iterator[tuple[Path, str]]:
        """File and text of each piece that was added."""
        for path in list(self._read):
            try:
                size = path.stat().st_size
                if size < self._read[path]:  # written anew
                    self._forget(path)
                while size > self._read[path]:
                    yield path, self._piece(path)
            except FileNotFoundError:
                self._forget(path)

    def _piece(self, path: Path) -> str:
        with path.open("rb") as file:
            file.seek(self._read[path])
            piece = file.read(CHUNK_BYTES)
        self._read[path] += len(piece)
        decoder = self._decoders.setdefault(path, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        return decoder.decode(piece)

    def _forget(self, path: Path) -> None:
        self._read[path] = 0
        self._decoders.pop(path, None)


def write_output(run: RunDir, write: Write, note: Write) -> None:
    """Write what the run's last attempt has put out, each file after a note of its path."""
    output = Output(run)
    output.look()
    _Sink(write, note).take(output)


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
    output, sink, said = Output(run), _Sink(write, note), ""
    judged = looked = 0.0
    while True:
        now = time.monotonic()
        if not looked or now - looked >= min(LOOK_S, judge_s):
            looked = now
            output.look()
        if not judged or now - judged >= judge_s or run.is_done() or (run.path / ERROR_FILE).exists():
            judged = now
            verdict = judge_all([run], {})[run.id]
            if verdict.state not in OPEN:
                output.look()
                sink.take(output)
                note(f"{run.id} is {verdict.state}: {verdict.why}")
                return verdict
            if verdict.state != said and (said or not output.begun):
                waits = "" if verdict.state == "running" else "; waits for output, Ctrl-C ends"
                note(f"{run.id} is {verdict.state}: {verdict.why}{waits}")
            said = verdict.state
        sink.take(output)
        time.sleep(poll_s)


class _Sink:
    """Writes pieces, and a note wherever another file begins."""

    def __init__(self, write: Write, note: Write) -> None:
        self._write = write
        self._note = note
        self._source: Path | None = None

    def take(self, output: Output) -> None:
        for path, text in output.new():
            if path != self._source:
                self._source = path
                self._note(str(path))
            self._write(text)
