"""What becomes of a damaged file: read as before, refused in one line, or left out with a note; all else is a fall."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput, LeftOut
from tests.fuzzing.mutations import Mutation
from tests.fuzzing.study import Study, without_slurm

SECONDS, MEGABYTES = 5.0, 500
_SILENT = "another result without a word"
Look = Callable[[Study, "Words"], Any]


class Words(list[str]):
    """What a user is told beside the result; the terminal makes one line of each (tests/screens/test_terminal.py)."""

    def attempt(self, read: Callable[[], Any]) -> Any:
        """What `read` gives; None where it refuses, in words."""
        try:
            return read()
        except BadInput as error:
            self.append(str(error))
            return None


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file, and everything that reads it.

    Attributes:
        path: of the file, given the study.
        mutations: damage, which has to be noticed wherever it changes anything.
        forged: changes by somebody who makes checksums anew, or by the file's own author: what is read may be another.
        forge: applies one of these to a content, checksums included; None: there are none.
        look: reads the file as the commands do; what is returned is compared.
        content: of the file, where the study has none.
        twin: the same file of another run.
        grows: by lines: without some of them it is as if these had not been written.
    """

    name: str
    path: Callable[[Study], Path]
    look: Look
    mutations: tuple[Mutation, ...] = ()
    forged: tuple[Mutation, ...] = ()
    forge: Callable[[Path, Mutation, random.Random, bytes], bytes] | None = None
    content: Callable[[Study], bytes] | None = None
    twin: Callable[[Study], bytes] | None = None
    grows: bool = False


@dataclasses.dataclass
class Tally:
    """How a number of mutations of one format ended."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    falls: list[str] = dataclasses.field(default_factory=list)

    def line(self, name: str) -> str:
        """In a line."""
        kinds = ("same", "refused", "left out", "another", "FALL")
        return f"{name:14}" + "".join(f"{self.counts[kind]:6} {kind}" for kind in kinds)


class TooSlow(BaseException):
    """A mutation took more of the processor than it may."""


def storm(chosen: Format, study: Study, number: int, seed: int = 0) -> Tally:
    """Damage the file so many times, each time anew; the file is as before in the end."""
    tally, path = Tally(), chosen.path(study)
    there = path.exists()
    original = chosen.content(study) if chosen.content else path.read_bytes()
    if not there:
        path.write_bytes(original)
    known = path.stat()
    kinds = [(kind, False) for kind in chosen.mutations] + [(kind, True) for kind in chosen.forged]
    if chosen.twin is not None:
        twin = chosen.twin(study)
        kinds.append((lambda *_: twin, False))
    try:
        reference = _look(chosen, study)
        assert not isinstance(reference[0], BaseException), reference
        for at in range(number):
            draw = random.Random(f"{chosen.name} {seed} {at}")
            mutation, forged = kinds[at % len(kinds)] if at < len(kinds) else draw.choice(kinds)
            remake = chosen.forge if forged else None
            path.write_bytes(remake(path, mutation, draw, original) if remake else mutation(draw, original))
            os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
            kind, why = judge(chosen, study, reference, forged=forged)
            if kind == "FALL" and chosen.grows and why.startswith(_SILENT) and _is_shorter(path.read_bytes(), original):
                kind = "left out"
            tally.counts[kind] += 1
            if kind == "FALL":
                what = getattr(mutation, "__name__", "twin").strip("_<>")
                tally.falls.append(f"{chosen.name}, seed {seed}, number {at}, {'forged ' * forged}{what}: {why}")
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
        if not there:
            path.unlink()
    return tally


def judge(chosen: Format, study: Study, reference: tuple[Any, list[str]], *, forged: bool) -> tuple[str, str]:
    """Kind of an outcome; of a fall what it is."""
    before, began = _resident_mb(peak=False), time.process_time()
    found, words = _look(chosen, study)
    seconds, memory = time.process_time() - began, _resident_mb(peak=True) - before
    why = ""
    if seconds > SECONDS or isinstance(found, TooSlow):
        why = f"{seconds:.1f} s"
    elif memory > MEGABYTES:
        why = f"{memory:.0f} MB"
    elif isinstance(found, BaseException) and not isinstance(found, BadInput):
        why = "".join(traceback.format_exception(found)[-4:])
    if why:
        return "FALL", why
    if isinstance(found, BadInput):
        return "refused", ""
    if repr(found) == repr(reference[0]):
        return "same", ""
    name = chosen.path(study).name
    named = any(name in word or "was made from" in word for word in words if word not in reference[1])
    if named and is_part(found, reference[0]):
        return "left out", ""
    if forged:
        return "another", ""
    return "FALL", f"{_SILENT}: {difference(found, reference[0])} {words[:2]!r}"[:1200]


def _is_shorter(content: bytes, whole: bytes) -> bool:
    """Whether a file of lines only lacks some, or the end of the last."""
    *lines, _ = content.split(b"\n")
    rest = iter(whole.split(b"\n"))
    return all(any(line == other for other in rest) for line in lines)


def is_part(found: Any, whole: Any) -> bool:
    """Whether nothing but what is missing is different."""
    if repr(found) == repr(whole) or found in (None, "", 0) or (isinstance(found, dict | list | tuple) and not found):
        return True
    if isinstance(found, dict) and isinstance(whole, dict):
        return all(key in whole and is_part(part, whole[key]) for key, part in found.items())
    if isinstance(found, list | tuple) and isinstance(whole, list | tuple):
        rest = iter(whole)
        return all(any(is_part(part, other) for other in rest) for part in found)
    return False


def difference(found: Any, whole: Any, where: str = "") -> str:
    """The first place at which two values differ."""
    if isinstance(found, dict) and isinstance(whole, dict):
        for key in {**found, **whole}:
            if repr(found.get(key, "-")) != repr(whole.get(key, "-")):
                return difference(found.get(key, "-"), whole.get(key, "-"), f"{where}.{key}")
    if isinstance(found, list | tuple) and isinstance(whole, list | tuple) and len(found) == len(whole):
        for number, (one, other) in enumerate(zip(found, whole, strict=True)):
            if repr(one) != repr(other):
                return difference(one, other, f"{where}[{number}]")
    return f"{where}: {found!r:.300} instead of {whole!r:.300}"


def _look(chosen: Format, study: Study) -> tuple[Any, list[str]]:
    """What is found, or the exception; and what is said."""
    words = Words()
    with warnings.catch_warnings(record=True) as noted, without_slurm(), _limited():
        warnings.simplefilter("always")
        try:
            found = chosen.look(study, words)
        except (Exception, TooSlow) as error:
            found = error
    words += [str(one.message) for one in noted if issubclass(one.category, LeftOut | UserWarning)]
    return found, list(words)


@contextmanager
def _limited() -> Iterator[None]:
    """End what computes for too long; on an idle machine or a busy one."""

    def end(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _resident_mb(*, peak: bool) -> float:
    """Memory of this process now, from where on the peak is counted anew; or that peak."""
    status = Path("/proc/self/status").read_text()
    with suppress(OSError):
        if not peak:
            Path("/proc/self/clear_refs").write_text("5")
        return int(status.partition("VmHWM:" if peak else "VmRSS:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
