"""The sparse decoder's kernels give what the dense transposed convolution gives in float64, and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hpcseg.networks.winners import Winners
from hpcseg.networks.winners import sparse_decode as decode_by_torch

pytest.importorskip("triton")

from hpcseg.networks.kernels.stamps import TESTED, TILE_ZYX, sparse_decode

DENSE = 10**8  # products that a dense convolution in float64 may take; else torch's own sparse decoder is the reference
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


class Problem(NamedTuple):
    values: Tensor
    places: Tensor
    weight: Tensor
    bias: Tensor
    shape: tuple[int, int, int]


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """All that is allocated holds NaN until it is written."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def _problem(seed, batch, maps, winners, edge, shape, device, dtype=torch.float32) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    voxels = shape[0] * shape[1] * shape[2]
    index = torch.rand(batch, maps, voxels, generator=generator).topk(winners, dim=2).indices
    index[0, 0, 0], index[-1, -1, -1] = 0, voxels - 1  # at the corners, whatever else is where
    values, weight, bias = (
        torch.randn(size, generator=generator).to(dtype).to(device).requires_grad_()
        for size in ((batch, maps, winners), (maps, 1, edge, edge, edge), (1,))
    )
    return Problem(values, index.to(device), weight, bias, shape)


def _upstream(problem: Problem) -> Tensor:
    edge = problem.weight.shape[-1]
    shape = (len(problem.values), 1, *(size + edge - 1 for size in problem.shape))
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return upstream.to(problem.weight.dtype).to(problem.weight.device)


def _found(problem: Problem) -> list[Tensor]:
    image = sparse_decode(*problem)
    return [image.detach(), *torch.autograd.grad(image, (problem[0], *problem[2:4]), _upstream(problem))]


def _expected(problem: Problem) -> list[Tensor]:
    values, weight, bias = (one.detach().cpu().double().requires_grad_() for one in (problem[0], *problem[2:4]))
    voxels = torch.Size(problem.shape).numel()
    if voxels * weight[0].numel() <= DENSE:
        code = torch.zeros(*values.shape[:2], voxels, dtype=torch.float64).scatter_add(2, problem.places.cpu(), values)
        image = functional.conv_transpose3d(code.view(*values.shape[:2], *problem.shape), weight, bias)
    else:
        image = decode_by_torch(Winners(values, problem.places.cpu()), weight, bias, problem.shape)
    upstream = _upstream(problem).cpu().double()
    return [image.detach(), *torch.autograd.grad(image, (values, weight, bias), upstream)]


def _check(problem: Problem) -> None:
    dtype = problem.weight.dtype
    upstream_size = _upstream(problem).double().norm().item() * _upstream(problem).numel() ** 0.5
    found, expected = _found(problem), _expected(problem)
    for name, one, other in zip(("image", "values", "weight", "bias"), found, expected, strict=True):
        assert one.dtype == dtype and one.shape == other.shape
        # The bias' gradient is a sum whose terms nearly cancel.
        size = upstream_size if name == "bias" else other.norm().item()
        error = (one.cpu().double() - other).norm().item()
        assert error <= BOUNDS[dtype] * size, f"{name}: {error:.3g} of {size:.3g}"


@pytest.mark.parametrize("edge", range(1, 16))
def test_decoder_and_gradients_equal_the_dense_convolution(edge, kernel_device):
    _check(_problem(edge, 2, 2, 2, edge, (3, 5, 4), kernel_device))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    "seed, batch, maps, winners, edge, shape",
    [
        (0, 1, 1, 1, 3, (1, 1, 1)),
        (1, 3, 5, 7, 2, (4, 3, 5)),
        (2, 1, 3, 1, 5, (2, 9, 40)),
        (3, 2, 1, 9, 4, (9, 2, 3)),
    ],
)
def test_odd_sizes_and_all_dtypes(seed, batch, maps, winners, edge, shape, dtype, kernel_device):
    _check(_problem(seed, batch, maps, winners, edge, shape, kernel_device, dtype))


def test_more_stamps_than_are_tested_at_a_time(kernel_device):
    problem = _problem(0, 1, 3, 90, 2, (5, 4, 5), kernel_device)
    assert problem.values.numel() > TESTED
    _check(problem)


def test_stamps_meet_tiles_at_every_edge(kernel_device):
    shape = tuple(size + 2 for size in TILE_ZYX)
    problem = _problem(0, 1, 1, 8, 3, shape, kernel_device)
    tile_z, tile_y, tile_x = TILE_ZYX
    corners = [(z, y, x) for z in (tile_z - 3, tile_z - 1) for y in (tile_y - 3, tile_y) for x in (tile_x - 2, tile_x)]
    index = torch.tensor([(z * shape[1] + y) * shape[2] + x for z, y, x in corners]).view(1, 1, 8)
    _check(problem._replace(places=index.to(kernel_device)))


def test_stamps_at_one_place_add_up(kernel_device):
    problem = _problem(1, 2, 2, 4, 3, (3, 4, 3), kernel_device)
    _check(problem._replace(places=torch.full_like(problem.places, 17)))


def test_a_nan_stays_within_its_stamp(kernel_device):
    problem = _problem(2, 1, 2, 2, 3, (4, 4, 4), kernel_device)
    values = problem.values.detach().clone()
    values[0, 0, 0] = torch.nan  # its stamp begins at 0
    image = sparse_decode(values, *problem[1:]).detach().cpu()
    assert image[0, 0, :3, :3, :3].isnan().all()
    assert image.isnan().sum() == 27


def test_the_papers_decoder(kernel_device):
    large = kernel_device.type == "cuda"
    maps, shape = (32, (72, 72, 72)) if large else (4, (2, 3, 4))
    _check(_problem(3, 2 if large else 1, maps, 5, 13, shape, kernel_device))


@pytest.mark.needs_gpu  # too much for an interpreter
def test_a_thousand_winners(kernel_device):
    _check(_problem(4, 2, 8, 1000, 13, (30, 31, 32), kernel_device))


def test_repeated_runs_are_bit_identical(kernel_device):
    large = kernel_device.type == "cuda"
    problem = _problem(5, 2, 3, 5, 7, (40, 41, 42) if large else (4, 5, 6), kernel_device)
    first, second = _found(problem), _found(problem)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_only_the_gradients_that_are_needed(kernel_device):
    problem = _problem(6, 1, 2, 2, 3, (3, 3, 3), kernel_device)
    image = sparse_decode(problem.values.detach(), problem.places, problem.weight, problem.bias.detach(), problem.shape)
    image.sum().backward()  # the upstream gradient is one number, expanded
    expected = problem.values.detach().sum(dim=(0, 2)).view(2, 1, 1, 1, 1).expand_as(problem.weight)
    torch.testing.assert_close(problem.weight.grad, expected)
    assert problem.values.grad is None and problem.bias.grad is None


def test_inputs_of_any_strides_are_taken(kernel_device):
    plain = _problem(7, 2, 3, 4, 3, (4, 5, 6), kernel_device)
    other = Problem(
        plain.values.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(),
        plain.places.transpose(0, 1).contiguous().transpose(0, 1),
        plain.weight.detach().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_(),
        plain.bias,
        plain.shape,
    )
    assert not other.values.is_contiguous() and not other.weight.is_contiguous()
    assert all(torch.equal(one, two) for one, two in zip(_found(plain), _found(other), strict=True))
