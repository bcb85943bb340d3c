"""Scans on their way through three hands: the next is read, and the one before finished, while the network computes.

The hands are threads. What they do (gzip, matrix products, search trees, numpy's loops) leaves the interpreter's lock
to the thread that asks the network, which loses no more to them than to processes (measured); and there is nothing to
start, to copy from one to the other, or to end in their place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

# Scans read before their turn, and not finished after it: each takes bytes for every voxel, and with one of both the
# network waits no longer than with more.
AHEAD, BEHIND = 1, 1

Item = TypeVar("Item")
Read = TypeVar("Read")
Part = TypeVar("Part")
Result = TypeVar("Result")


class Abandoned(Exception):
    """The network will not get to the end of a scan: whoever finishes it leaves it as well."""


@dataclass(frozen=True)
class Hands(Generic[Item, Read, Part, Result]):
    """Who does what with an item.

    Attributes:
        read: in a thread of its own, ahead of time.
        compute: in the caller's thread; yields the network's answer part by part.
        finish: in another thread, while the parts arrive and after that.
        go_on: asked in the caller's thread before each item is computed; where it says no, nothing more is begun.
        failed: makes the result of an item of which something failed, or raises; None: the error is raised.
    """

    read: Callable[[Item], Read]
    compute: Callable[[Read], Iterator[Part]]
    finish: Callable[[Item, Iterator[Part]], Result]
    go_on: Callable[[], bool] = lambda: True
    failed: Callable[[Item, Exception], Result] | None = None


def in_turn(items: Iterable[Item], hands: Hands[Item, Read, Part, Result]) -> Generator[Result, None, None]:
    """Yield the result of each item, in order, as soon as it is there, also in the middle of a later item.

    An error is raised where its item's result is due: those before it are whole, and were yielded. Whenever the
    iterator ends, what runs in a thread is waited for, and nothing more is begun.
    """
    behind: deque[tuple[Item, Future[Result]]] = deque()
    with (
        ThreadPoolExecutor(AHEAD, "read") as readers,
        ThreadPoolExecutor(BEHIND + 1, "finish") as finishers,
        closing(_begun(items, hands.read, readers)) as begun,
    ):
        for item, reading in begun:
            yield from _results(behind, hands, still=BEHIND)
            if not hands.go_on():
                break
            with closing(_computed(item, reading, hands, finishers)) as computed:
                for finishing in computed:
                    last = finishing
                    yield from _results(behind, hands, still=len(behind))
            behind.append((item, last))
            if hands.failed is None and last.done() and last.exception():
                break
        yield from _results(behind, hands, still=0)


def _begun(
    items: Iterable[Item], read: Callable[[Item], Read], readers: ThreadPoolExecutor
) -> Generator[tuple[Item, Future[Read]], None, None]:
    """Items that are being read, as are the `AHEAD` ones after each."""
    waiting: deque[tuple[Item, Future[Read]]] = deque()
    try:
        for item in items:
            waiting.append((item, readers.submit(read, item)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, reading in waiting:
            reading.cancel()


def _computed(
    item: Item, reading: Future[Read], hands: Hands[Item, Read, Part, Result], finishers: ThreadPoolExecutor
) -> Generator[Future[Result], None, None]:
    """Compute an item; yields its result to come after every part, and in the end: as one that failed, if it did."""
    parts: _Parts[Part] = _Parts()
    try:
        read = reading.result()
        finishing = finishers.submit(hands.finish, item, parts)
        finishing.add_done_callback(parts.nobody_waits)
        for part in hands.compute(read):
            parts.put(part)
            yield finishing
        parts.end()
        yield finishing
    except Exception as error:
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield failed
    finally:
        parts.abandon()


def _results(
    behind: deque[tuple[Item, Future[Result]]], hands: Hands[Item, Read, Part, Result], *, still: int
) -> Iterator[Result]:
    """Results that are there, and those that have to be waited for until at most `still` are not."""
    while behind and (len(behind) > still or behind[0][1].done()):
        item, finishing = behind.popleft()
        try:
            result = finishing.result()
        except Exception as error:
            if hands.failed is None:
                raise
            result = hands.failed(item, error)
        yield result


class _Parts(Iterator[Part]):
    """Parts of an answer from one thread to another, hand to hand; either side may leave.

    None waits in between: each is as thick as a tile, and while one is restored the next is computed.
    """

    def __init__(self) -> None:
        self._waiting: list[Part] = []  # one at most
        self._changed = threading.Condition()
        self._over: type[Exception] | None = None  # what is raised after the last part
        self._finishing: Future[Any] | None = None

    def put(self, part: Part) -> None:
        """Hand a part over, once it is asked for; raises the error of the one who should have taken it."""
        with self._changed:
            self._waiting.append(part)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting or self._finishing is not None)
            if self._waiting and self._finishing is not None:
                self._waiting.clear()
                self._finishing.result()

    def nobody_waits(self, finishing: Future[Any]) -> None:
        """No more parts are taken."""
        with self._changed:
            self._finishing = finishing
            self._changed.notify_all()

    def end(self) -> None:
        """There are no more parts."""
        with self._changed:
            self._over = StopIteration
            self._changed.notify_all()

    def abandon(self) -> None:
        """The parts that are missing will not come; nothing, if none is."""
        with self._changed:
            if self._over is None:
                self._over = Abandoned
                self._waiting.clear()
                self._changed.notify_all()

    def __next__(self) -> Part:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                assert self._over is not None
                raise self._over
            self._changed.notify_all()
            return self._waiting.pop()
