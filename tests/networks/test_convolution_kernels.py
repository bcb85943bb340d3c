"""Kernels of convolutions against torch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
Case = tuple[int, tuple[int, int, int], int, int, int, torch.dtype]
# batch, edges, input maps, maps, kernel edge, dtype
CASES: list[Case] = [
    (2, (5, 6, 8), 32, 32, 5, torch.bfloat16),
    (1, (5, 5, 7), 32, 32, 5, torch.float32),
    (1, (5, 6, 5), 64, 32, 3, torch.float16),
    (1, (6, 5, 7), 16, 2, 5, torch.bfloat16),
    (2, (7, 8, 9), 3, 5, 5, torch.float32),
    (2, (7, 8, 9), 1, 32, 5, torch.bfloat16),
    (1, (6, 5, 12), 1, 2, 3, torch.float32),
    (3, (5, 4, 3), 20, 40, 2, torch.float32),
    (2, (3, 2, 5), 32, 32, 1, torch.bfloat16),
    (1, (6, 6, 7), 16, 16, 6, torch.float32),
]
LARGE: list[Case] = [  # for GPUs: many tiles, samples and shares
    (8, (24, 23, 25), 32, 32, 5, torch.bfloat16),
    (3, (21, 30, 19), 64, 32, 5, torch.float16),
    (2, (19, 18, 40), 48, 40, 7, torch.bfloat16),
    (5, (28, 28, 29), 1, 32, 5, torch.bfloat16),
    (2, (20, 20, 20), 32, 32, 5, torch.float32),
    (1, (20, 30, 80), 32, 32, 5, torch.bfloat16),
    (1, (20, 22, 21), 16, 16, 13, torch.float16),
]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """New memory is filled with NaN: what a kernel leaves unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)


def drawn(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input, float32 weights and the gradient of the result, of random numbers, others for each case."""
    batch, edges, inputs, maps, n, dtype = case
    generator = torch.Generator().manual_seed(sum(edges) + 100 * inputs + maps)
    shapes = ((batch, inputs, *edges), (maps, inputs, n, n, n), (batch, maps, *(edge - n + 1 for edge in edges)))
    maps_BIDHW, weight, gradient = (torch.randn(shape, generator=generator) for shape in shapes)
    last = torch.channels_last_3d
    return (
        maps_BIDHW.to(device, dtype).contiguous(memory_format=last),
        weight.to(device),
        gradient.to(device, dtype).contiguous(memory_format=last),
    )


def references(maps: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Result, gradients of input and weights in float64, of weights rounded to the maps' dtype."""
    maps64 = maps.detach().cpu().double().requires_grad_()
    weight64 = weight.detach().cpu().to(maps.dtype).double().requires_grad_()
    result = functional.conv3d(maps64, weight64)
    of_maps, of_weight = torch.autograd.grad(result, (maps64, weight64), gradient.cpu().double())
    return result.detach(), of_maps, of_weight


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().cpu().double() - expected).norm() / expected.norm())


def check(case: Case, device: torch.device, *, wide: bool = False) -> None:
    from hpcseg.networks.kernels import convolution

    maps, weight, gradient = drawn(case, device)
    expected = references(maps, weight, gradient)
    bound = BOUND[case[-1]]
    result = convolution.convolved(maps, weight, wide=wide)
    assert result.dtype == maps.dtype
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    assert error(result, expected[0]) <= bound
    assert error(convolution.input_gradient(gradient, weight, wide=wide), expected[1]) <= bound
    of_weight = convolution.weight_gradient(maps, gradient)
    assert of_weight.dtype == torch.float32
    sums = 1e-4 if device.type == "cuda" and case[-1] != torch.float32 else 1e-5  # tensor cores round sums down
    assert error(of_weight, expected[2]) <= sums, "sums in float32 of products of the same numbers"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_agree_with_torch(case: Case, kernel_device: torch.device) -> None:
    check(case, kernel_device)


@pytest.mark.needs_gpu  # takes Triton's interpreter minutes
@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_kernels_agree_with_torch_on_a_gpu(case: Case, wide: bool, kernel_device: torch.device) -> None:
    check(case, kernel_device, wide=wide)


def test_wide_tiles_agree_with_torch(kernel_device: torch.device) -> None:
    check((1, (5, 5, 8), 32, 32, 5, torch.bfloat16), kernel_device, wide=True)


def test_repeated_results_are_the_same_bits(kernel_device: torch.device) -> None:
    from hpcseg.networks.kernels import convolution

    maps, weight, gradient = drawn((2, (3, 4, 6), 32, 32, 3, torch.bfloat16), kernel_device)
    for work in (
        lambda: convolution.convolved(maps, weight),
        lambda: convolution.input_gradient(gradient, weight),
        lambda: convolution.weight_gradient(maps, gradient),
    ):
        assert torch.equal(work(), work())


def test_what_is_written_to_is_the_given_tensor(kernel_device: torch.device) -> None:
    from hpcseg.networks.kernels import convolution

    maps, weight, gradient = drawn((1, (3, 4, 6), 16, 16, 3, torch.float32), kernel_device)
    out = torch.full_like(gradient, float("nan"))
    assert convolution.convolved(maps, weight, out_BKDHW=out) is out
    assert error(out, references(maps, weight, gradient)[0]) <= 1e-5


def test_any_layout_is_taken(kernel_device: torch.device) -> None:
    from hpcseg.networks.kernels import convolution

    maps, weight, gradient = drawn((1, (3, 4, 6), 16, 16, 3, torch.float32), kernel_device)
    turned = weight.contiguous(memory_format=torch.channels_last_3d)
    laid_out = convolution.convolved(maps, weight)
    assert torch.equal(convolution.convolved(maps.contiguous(), turned), laid_out)
    of_weight = convolution.weight_gradient(maps, gradient)
    assert torch.equal(convolution.weight_gradient(maps.contiguous(), gradient.contiguous()), of_weight)


@pytest.mark.parametrize("edge", range(1, 16))
def test_every_tap_is_among_the_programs_of_a_weight_gradient(edge: int, kernel_device: torch.device) -> None:
    from hpcseg.networks.kernels.convolution import entries_of, slots_of

    slots = sum(slots_of(edge))
    rows, places = entries_of(edge, slots)
    taps = []
    for place in places:
        row, lag, delay = place // (4 * slots), place // slots % 4, place % slots
        z, y, x, step_z, step_y, step_x, last_lag, delay_z, delay_y, last_delay = rows[row]
        assert lag <= last_lag
        assert delay <= last_delay
        taps.append((z + lag * step_z + delay * delay_z, y + lag * step_y + delay * delay_y, x + lag * step_x))
    assert taps == [(z, y, x) for z in range(edge) for y in range(edge) for x in range(edge)]
    for z, y, x, step_z, step_y, step_x, last_lag, delay_z, delay_y, last_delay in rows:
        farthest = (z + last_lag * step_z + last_delay * delay_z, y + last_lag * step_y + last_delay * delay_y)
        assert max(*farthest, x + last_lag * step_x) < edge, "nothing is read beyond the maps"


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 72, 76, 80, 1000, (1 << 30) - 1])
def test_division_by_multiplication(divisor: int, kernel_device: torch.device) -> None:
    from hpcseg.networks.kernels.convolution import _reciprocal

    factor, digits = _reciprocal(divisor)
    assert factor < 1 << 31
    largest = (1 << 30) - 1
    numbers = [0, 1, divisor - 1, divisor, divisor + 1, largest, largest // divisor * divisor - 1, 123456789]
    assert all(number * factor >> digits == number // divisor for number in numbers if 0 <= number <= largest)
