"""Encoders on streams of their own: what waits for what, played by streams that keep account of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor

from hpcseg.networks.fnet import FNet
from hpcseg.networks.forks import forked, side_by_side
from hpcseg.patches.geometry import FovealGeometry


class Stream:
    """A stream that knows what was done before whatever it does next."""

    current: Stream

    def __init__(self, name: str) -> None:
        self.name, self.done = name, set[str]()

    def do(self, what: str) -> set[str]:
        """Do something; returns all that is sure to be over by then."""
        before = set(self.done)
        self.done.add(what)
        return before

    def wait_stream(self, other: Stream) -> None:
        self.done |= other.done


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """Three streams beside the current one."""

    @contextmanager
    def switched(stream: Stream) -> Iterator[None]:
        before, Stream.current = Stream.current, stream
        try:
            yield
        finally:
            Stream.current = before

    Stream.current = Stream("main")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.current)
    monkeypatch.setattr(torch.cuda, "stream", switched)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: stream.do("recorded"))
    return [Stream(str(number)) for number in range(3)]


def test_works_begin_after_what_was_before_and_results_wait_for_their_own_work_alone(streams: list[Stream]) -> None:
    seen: list[tuple[str, set[str]]] = []

    def work(number: int) -> Tensor:
        seen.append((Stream.current.name, Stream.current.do(f"work {number}")))
        return torch.tensor(number)

    main = Stream.current
    main.do("before")
    with forked(streams):  # type: ignore[arg-type]
        begun = side_by_side([partial(work, number) for number in range(2)])
    assert seen == [("0", {"before"}), ("1", {"before"})], "each on its own stream, not after the other"
    assert int(begun[1]()) == 1
    assert main.done == {"before", "work 1", "recorded"}
    assert int(begun[0]()) == 0 and "work 0" in main.done


def test_without_streams_a_work_is_done_when_its_result_is_wanted() -> None:
    done: list[int] = []

    def work(number: int) -> Tensor:
        done.append(number)
        return torch.tensor(number)

    begun = side_by_side([partial(work, 0), partial(work, 1)])
    assert done == []
    assert int(begun[1]()) == 1 and done == [1]


def test_fewer_streams_than_works_are_refused(streams: list[Stream]) -> None:
    with forked(streams), pytest.raises(ValueError, match="shorter"):  # type: ignore[arg-type]
        side_by_side([lambda: torch.zeros(1)] * 4)


def test_an_fnet_whose_encoders_are_forked_gives_the_same_bits(streams: list[Stream]) -> None:
    geometry = FovealGeometry(6, 3, 3)
    images = [torch.randn((1, 1, *(size,) * 3), generator=torch.Generator().manual_seed(0)) for size in geometry.inputs]
    found = []
    for own in ([], streams):
        network = FNet(3, 3, (2, 3, 4), 1, 1.0, generator=torch.Generator().manual_seed(0))
        with forked(own):  # type: ignore[arg-type]
            logits = network(images)
        logits.square().sum().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in network.parameters()), *network.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert "recorded" in Stream.current.done
