"""Three hands: what overlaps, in which order results come, and what becomes of errors wherever they happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from hpcseg.inference.pipeline import Abandoned, Hands, in_turn

WAIT_S = 10.0  # for what happens at once


class Log:
    """Hands that write down what they do; `broken` is (hand, item) that fails."""

    def __init__(self, broken: tuple[str, int] = ("", -1), parts: int = 3) -> None:
        self.broken, self.parts = broken, parts
        self.events: list[tuple[str, int]] = []
        self.alive = self.most = 0
        self.lock = threading.Lock()

    def note(self, what: str, item: int) -> None:
        with self.lock:
            self.events.append((what, item))
        if (what, item) == self.broken:
            raise ValueError(f"{what} {item}")

    def read(self, item: int) -> int:
        self.note("read", item)
        return 10 * item

    def compute(self, read: int) -> Iterator[tuple[int, int]]:
        for part in range(self.parts):
            self.note("compute", read // 10)
            yield read, part

    def finish(self, item: int, parts: Iterator[tuple[int, int]]) -> tuple[int, int]:
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        try:
            taken = list(parts)
            assert [read for read, _ in taken] == [10 * item] * len(taken)
            self.note("finish", item)
            return item, len(taken)
        finally:
            with self.lock:
                self.alive -= 1

    def hands(self) -> Hands[int, int, tuple[int, int], tuple[int, int]]:
        return Hands(self.read, self.compute, self.finish)


def test_results_come_in_order_and_whole() -> None:
    log = Log()
    assert list(in_turn(range(20), log.hands())) == [(item, 3) for item in range(20)]
    assert log.most <= 2
    assert list(in_turn([], log.hands())) == []


def test_the_next_is_read_and_the_last_finished_while_the_network_computes() -> None:
    read_1, computed_1, finished_0 = threading.Event(), threading.Event(), threading.Event()

    def read(item: int) -> int:
        if item == 1:
            read_1.set()
        return item

    def compute(item: int) -> Iterator[int]:
        if item == 0:
            assert read_1.wait(WAIT_S)  # before the network is through with the one before
        yield item
        if item == 1:
            computed_1.set()
            assert finished_0.wait(WAIT_S)

    def finish(item: int, parts: Iterator[int]) -> int:
        list(parts)
        if item == 0:
            assert computed_1.wait(WAIT_S)  # its measuring lasts into the next scan
            finished_0.set()
        return item

    assert list(in_turn(range(2), Hands(read, compute, finish))) == [0, 1]


def test_no_more_is_read_or_waits_than_one() -> None:
    log = Log()
    results = in_turn(range(9), log.hands())
    assert next(results) == (0, 3)
    time.sleep(0.05)
    assert max(item for what, item in log.events if what == "read") <= 3  # 1 or 2 with the network, one ahead
    results.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "finish"))]


@pytest.mark.parametrize("item", [0, 1, 4])
@pytest.mark.parametrize("hand", ["read", "compute", "finish"])
def test_an_error_is_raised_where_its_result_is_due(hand: str, item: int) -> None:
    results, got = in_turn(range(5), Log((hand, item)).hands()), list[tuple[int, int]]()
    with pytest.raises(ValueError, match=f"^{hand} {item}$"):
        for result in results:
            got.append(result)
    assert [index for index, _ in got] == list(range(item))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "finish"))]


def test_whoever_finishes_may_leave_early_and_the_network_stops_for_one_who_failed() -> None:
    computed = []

    def compute(item: int) -> Iterator[int]:
        for part in range(50):
            computed.append(part)
            yield part

    def first(_: int, parts: Iterator[int]) -> int:
        return next(parts)

    def failing(_: int, parts: Iterator[int]) -> int:
        raise OSError("the disk is full")

    assert list(in_turn([0], Hands(int, compute, first))) == [0]
    computed.clear()
    with pytest.raises(OSError, match="the disk is full"):
        list(in_turn([0], Hands(int, compute, failing)))
    assert len(computed) < 50


def test_an_interrupt_in_the_network_ends_all_threads() -> None:
    seen: list[type[BaseException]] = []

    def compute(item: int) -> Iterator[int]:
        yield item
        raise KeyboardInterrupt

    def finish(_: int, parts: Iterator[int]) -> None:
        try:
            list(parts)
        except Abandoned as error:
            seen.append(type(error))
            raise

    with pytest.raises(KeyboardInterrupt):
        list(in_turn(range(3), Hands(int, compute, finish)))
    assert seen == [Abandoned]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "finish"))]


def test_when_asked_to_stop_what_was_begun_is_finished() -> None:
    log, asked = Log(), iter([True, True, False])
    hands = Hands(log.read, log.compute, log.finish, lambda: next(asked))
    assert list(in_turn(range(9), hands)) == [(0, 3), (1, 3)]
    assert ("compute", 2) not in log.events


@pytest.mark.parametrize("hand", ["read", "compute", "finish"])
def test_where_failures_are_taken_the_others_go_on(hand: str) -> None:
    log = Log((hand, 2))
    hands = Hands(log.read, log.compute, log.finish, failed=lambda item, error: (item, len(str(error))))
    expected = [(item, len(f"{hand} 2") if item == 2 else 3) for item in range(5)]
    assert list(in_turn(range(5), hands)) == expected
