"""Parts of a network that do not need one another, side by side on CUDA streams of their own.

Whoever records a step (`hpcseg.training.graphs`) says so; autograd computes the backward pass of each part on the
stream of its forward pass. Bits are those of one stream: the same kernels work on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor

Work = Callable[[], Tensor]
_streams: ContextVar[Sequence[torch.cuda.Stream]] = ContextVar("streams", default=())


@contextmanager
def forked(streams: Sequence[torch.cuda.Stream]) -> Iterator[None]:
    """Meanwhile let `side_by_side` take these streams, at least as many as there are works; none: the current one."""
    token = _streams.set(streams)
    try:
        yield
    finally:
        _streams.reset(token)


def side_by_side(works: Sequence[Work]) -> list[Work]:
    """Return for each work what gives its result, in whatever order; without streams it is done only then."""
    streams = () if torch.compiler.is_compiling() else _streams.get()
    if not streams:
        return list(works)
    current, begun = torch.cuda.current_stream(), list[Work]()
    for work, stream in zip(works, streams[: len(works)], strict=True):
        stream.wait_stream(current)  # by events, as a recording demands
        with torch.cuda.stream(stream):
            begun.append(partial(_joined, work(), stream, current))
    return begun


def _joined(result: Tensor, stream: torch.cuda.Stream, current: torch.cuda.Stream) -> Tensor:
    current.wait_stream(stream)
    result.record_stream(current)  # its memory is not given to the other stream again before this one is done with it
    return result
