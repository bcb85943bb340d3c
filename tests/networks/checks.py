"""What tests of networks share: seeing all that is written and asked of a GPU; the decoder by its definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from hpcseg.networks.winners import Winners, dense_code

_GUARD = 64  # elements on either side; keeps the alignment to 16 bytes
_UNTOUCHED = 77.0


@contextmanager
def guarded(*, written: bool = True) -> Iterator[None]:
    """Meanwhile `torch.empty` and `torch.empty_like` give tensors full of NaN, between guards; at the end all are seen.

    Args:
        written: also assert that no NaN is left.
    """
    made: list[Tensor] = []
    empty, empty_like = torch.empty, torch.empty_like

    def place(like: Tensor, device: torch.device) -> Tensor:
        whole = torch.full((like.numel() + 2 * _GUARD,), _UNTOUCHED, dtype=like.dtype, device=device)
        inner = whole[_GUARD : _GUARD + like.numel()].fill_(torch.nan)
        made.append(whole)
        return inner.as_strided(like.shape, like.stride())

    def guarded_empty(*size, device="cpu", **options) -> Tensor:
        return place(empty(*size, device="meta", **options), device)

    def guarded_empty_like(tensor: Tensor) -> Tensor:
        return place(empty_like(tensor, device="meta"), tensor.device)

    with patch("torch.empty", guarded_empty), patch("torch.empty_like", guarded_empty_like):
        yield
    assert made, "nothing was allocated"
    for whole in made:
        assert (whole[:_GUARD] == _UNTOUCHED).all() and (whole[-_GUARD:] == _UNTOUCHED).all(), "written beside"
        assert not written or not whole.isnan().any(), "left out"


def off(found: Tensor, expected: Tensor) -> float:
    """Relative error of a whole tensor."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


def captured(function: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return what a function gives when a CUDA graph replays it, and assert that it never waits for the GPU.

    Its kernels are all deterministic, too: torch raises where one is known not to be.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()  # compiles the kernels
        torch.use_deterministic_algorithms(True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.use_deterministic_algorithms(False)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function()
    for tensor in found:
        tensor.detach().fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    return tuple(tensor.detach().clone() for tensor in found)


def dense_decode(winners: Winners, weight_K1nnn: Tensor, bias_1: Tensor, code_shape: tuple[int, int, int]) -> Tensor:
    """What `sparse_decode` must equal, by scattering the code and convolving it; slow."""
    code_BKDHW = dense_code(winners, code_shape).to(weight_K1nnn.dtype)
    return functional.conv_transpose3d(code_BKDHW, weight_K1nnn, bias_1)
