"""The winners' kernels choose as a stable sort does, and bring gradients back to the winners' places alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hpcseg.networks.winners import sparse_decode
from hpcseg.networks.winners import top_winners as dispatched

pytest.importorskip("triton")

from hpcseg.networks.kernels import winners as module
from hpcseg.networks.kernels.winners import place, top, top_winners

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """All that is allocated holds NaN or the largest integer until it is written."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def _code(seed: int, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    code = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return code.to(dtype).contiguous(memory_format=layout)


def _expected(code: Tensor, winners: int) -> tuple[Tensor, Tensor]:
    values, index = code.cpu().double().flatten(2).sort(dim=2, descending=True, stable=True)
    return values[:, :, :winners].float(), index[:, :, :winners]


def _check(code: Tensor, winners: int, device: torch.device) -> None:
    code = code.to(device)
    found, expected = top(code, winners), _expected(code, winners)
    assert found[0].dtype == torch.float32 and found[1].dtype == torch.int64
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found[1].cpu(), expected[1])
    again = top(code, winners)
    assert torch.equal(again[0].view(torch.int32), found[0].view(torch.int32)) and torch.equal(again[1], found[1])


@pytest.mark.pairs
@DTYPES
@LAYOUTS
@pytest.mark.parametrize(
    "seed, shape, winners",
    [
        (0, (2, 3, 9, 11, 7), 5),
        (1, (2, 2, 8, 8, 8), 1),
        (2, (1, 2, 9, 8, 13), 17),
        (3, (1, 1, 1, 1, 1), 1),
        (4, (1, 2, 1, 5, 3), 15),
        (5, (1, 33, 2, 3, 2), 2),
        (6, (1, 1, 10, 11, 12), 32),
        (7, (2, 2, 6, 7, 8), 33),
    ],
)
def test_winners_are_those_of_a_stable_sort(seed, shape, winners, dtype, layout, kernel_device):
    _check(_code(seed, shape, dtype, layout), winners, kernel_device)


@pytest.mark.pairs
@DTYPES
@LAYOUTS
@pytest.mark.parametrize("winners", [1, 5, 17])
def test_of_equal_activations_the_first_wins(winners, dtype, layout, kernel_device):
    code = _code(0, (2, 4, 9, 10, 8), dtype, layout).mul(2).round().relu()
    code[0, 1] = 0.25
    code[0, 2] = -3.0
    code[1, 1] = -0.0
    code[1, 1, 4, 5, 6] = 0.0
    _check(code, winners, kernel_device)


@DTYPES
@LAYOUTS
def test_nan_is_larger_than_all_and_infinities_are_numbers(dtype, layout, kernel_device):
    code = _code(1, (2, 3, 9, 10, 8), dtype, layout)
    code[0, 0, 2, 3, 4] = code[0, 0, 8, 3, 4] = torch.nan
    code[0, 1, 8, 9, 7] = torch.inf
    code[0, 2] = -torch.inf
    code[1, 0] = -code[1, 0].abs()
    code[1, 1] = torch.nan
    code[1, 2] = -torch.inf
    code[1, 2, 3, 3, 3] = torch.finfo(dtype).min
    _check(code, 4, kernel_device)


def test_negative_nan_is_as_large(kernel_device):
    code = _code(2, (1, 1, 7, 8, 9), torch.float32, torch.contiguous_format)
    code[0, 0, 4, 4, 4] = -torch.tensor(torch.nan)
    values, index = top(code.to(kernel_device), 2)
    assert values[0, 0].isnan().tolist() == [True, False]
    assert index[0, 0, 0] == 4 * 72 + 4 * 9 + 4


@LAYOUTS
@pytest.mark.parametrize("groups, winners", [(1, 5), (2, 3), (3, 1)])
def test_groups_of_any_size_give_the_same(groups, winners, layout, kernel_device, monkeypatch):
    monkeypatch.setattr(module, "MOST_GROUPS", groups)
    _check(_code(3, (2, 3, 10, 11, 13), torch.float32, layout), winners, kernel_device)


@LAYOUTS
@pytest.mark.parametrize("winners", [5, 100, 1000])
def test_a_code_of_any_strides_is_taken(winners, layout, kernel_device):
    code = _code(4, (2, 6, 10, 22, 12), torch.float32, layout)[:, ::2, :, 1::2]
    assert not code.is_contiguous() and not code.is_contiguous(memory_format=torch.channels_last_3d)
    _check(code, winners, kernel_device)


@pytest.mark.needs_gpu  # too large for an interpreter
def test_the_papers_finest_code(kernel_device):
    code = _code(5, (2, 32, 72, 72, 72), torch.bfloat16, torch.channels_last_3d).relu()
    for winners in (5, 32):
        _check(code, winners, kernel_device)


@pytest.mark.pairs
@DTYPES
@LAYOUTS
@pytest.mark.parametrize("winners", [1, 5, 40])
def test_gradients_reach_the_winners_alone(winners, dtype, layout, kernel_device):
    code = _code(6, (2, 3, 7, 8, 9), dtype, layout).to(kernel_device).requires_grad_()
    values, index = top_winners(code, winners)
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(kernel_device)
    values.backward(upstream)
    assert code.grad.dtype == dtype and code.grad.is_contiguous(memory_format=layout)
    expected = torch.zeros(2, 3, 7 * 8 * 9).scatter_(2, index.cpu(), upstream.cpu()).to(dtype)
    # Triton's interpreter cuts off what bfloat16 cannot hold, where a GPU rounds.
    cut_off = 2.0**-7 if dtype == torch.bfloat16 and kernel_device.type == "cpu" else 0.0
    torch.testing.assert_close(code.grad.cpu().flatten(2), expected, rtol=cut_off, atol=0)
    assert not index.requires_grad


@LAYOUTS
def test_a_gradient_that_is_one_number_is_taken(layout, kernel_device):
    code = _code(7, (2, 2, 4, 5, 6), torch.float32, layout).to(kernel_device).requires_grad_()
    values, _ = top_winners(code, 3)
    values.sum().backward()
    assert code.grad.sum() == 12 and code.grad.count_nonzero() == 12


def test_what_is_in_no_place_stays(kernel_device):
    code = torch.full((1, 2, 2, 3, 4), 7.0, device=kernel_device)
    index = torch.tensor([[[0, 23], [5, 4]]], device=kernel_device)
    place(code, torch.arange(4.0, device=kernel_device).view(1, 2, 2), index)
    expected = torch.full((1, 2, 24), 7.0)
    expected[0, 0, 0], expected[0, 0, 23], expected[0, 1, 5], expected[0, 1, 4] = 0, 1, 2, 3
    assert torch.equal(code.cpu().flatten(2), expected)


@pytest.mark.needs_gpu
def test_a_captured_graph_gives_the_same(kernel_device):
    code = _code(8, (4, 8, 20, 21, 22), torch.bfloat16, torch.channels_last_3d).to(kernel_device).requires_grad_()
    weight = torch.randn(8, 1, 13, 13, 13, device=kernel_device, requires_grad=True)
    bias = torch.zeros(1, device=kernel_device, requires_grad=True)

    def step() -> list[Tensor]:
        image = sparse_decode(dispatched(code, 5, lifetime=0.5), weight, bias, (20, 21, 22))
        return [image, *torch.autograd.grad(image.square().mean(), (code, weight, bias))]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        code.copy_(_code(9, (4, 8, 20, 21, 22), torch.bfloat16, torch.channels_last_3d))
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(captured, step(), strict=True))
