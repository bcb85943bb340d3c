"""The sparse decoder is the transposed convolution of the winners' code, in values and in every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hpcseg import kernels
from hpcseg.networks import winners as module
from hpcseg.networks.winners import Winners, sparse_decode, top_winners
from tests.networks.checks import dense_decode


def _problem(seed, batch, maps, count, edge, shape, dtype=torch.float32) -> tuple[Winners, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(batch, maps, *shape, generator=generator, dtype=dtype)
    weight = torch.randn(maps, 1, edge, edge, edge, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(1, generator=generator, dtype=dtype).requires_grad_()
    values, index = top_winners(code, count)
    return Winners(values.detach().requires_grad_(), index), weight, bias


def _outcome(decode, winners, weight, bias, shape):
    image = decode(winners, weight, bias, shape)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
    return image.detach(), *torch.autograd.grad(image, (winners.values_BKN, weight, bias), upstream)


def _relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    maps=st.integers(1, 5),
    count=st.integers(1, 8),
    edge=st.sampled_from([1, 3, 5, 7, 9, 13]),
    shape=st.tuples(st.integers(2, 9), st.integers(2, 7), st.integers(2, 8)),
)
def test_sparse_decoder_equals_the_transposed_convolution_of_the_code(seed, batch, maps, count, edge, shape):
    _, weight, bias = _problem(seed, batch, maps, count, edge, shape)
    code = torch.randn(batch, maps, *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    # The code by its definition: what is smaller than the count-th largest of its map becomes 0.
    least = code.detach().flatten(2).sort(dim=2, descending=True).values[:, :, count - 1].view(batch, maps, 1, 1, 1)
    dense = functional.conv_transpose3d(code * (code >= least), weight, bias)
    sparse = sparse_decode(top_winners(code, count), weight, bias, shape)
    assert _relative_error(sparse, dense) < 1e-5
    upstream = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(image, (code, weight), upstream, retain_graph=True) for image in (sparse, dense)]
    for found, expected in zip(*gradients, strict=True):
        assert _relative_error(found, expected) < 1e-5
    (found,) = torch.autograd.grad(sparse, bias, upstream)  # a sum whose terms nearly cancel
    assert abs(found.item() - upstream.double().sum().item()) < 1e-6 * upstream.abs().sum().item()


@pytest.mark.parametrize("edge", [3, 13])
def test_dense_decoder_is_the_sparse_ones_equal(edge):
    shape = (5, 3, 4)
    problem = _problem(2, 2, 3, 4, edge, shape)
    sparse, dense = (_outcome(decode, *problem, shape) for decode in (sparse_decode, dense_decode))
    for found, expected in zip(sparse, dense, strict=True):
        assert _relative_error(found, expected) < 1e-5


def test_gradients_equal_finite_differences_in_double_precision():
    shape = (3, 4, 5)
    winners, weight, bias = _problem(0, 2, 3, 2, 3, shape, torch.float64)

    def decode(values, weight, bias):
        return sparse_decode(Winners(values, winners.index_BKN), weight, bias, shape)

    assert torch.autograd.gradcheck(decode, (winners.values_BKN, weight, bias))


def test_chunks_do_not_change_the_result(monkeypatch):
    shape = (6, 5, 4)
    problem = _problem(3, 2, 4, 5, 3, shape)
    whole = _outcome(sparse_decode, *problem, shape)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * 27)
    for found, expected in zip(_outcome(sparse_decode, *problem, shape), whole, strict=True):
        assert _relative_error(found, expected) < 1e-6


def test_repeated_runs_are_bit_identical():
    shape = (8, 8, 8)
    problem = _problem(4, 3, 8, 5, 7, shape)
    first, second = (_outcome(sparse_decode, *problem, shape) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_winners_are_the_largest_of_each_map_and_know_where_they_are():
    code = torch.zeros(1, 2, 2, 3, 4)
    code[0, 0, 1, 2, 3], code[0, 0, 0, 1, 0] = 5.0, 3.0
    code[0, 1, 1, 0, 1], code[0, 1, 0, 0, 2] = 2.0, 7.0
    winners = top_winners(code, 2)
    assert winners.values_BKN.tolist() == [[[5.0, 3.0], [7.0, 2.0]]]
    assert winners.index_BKN.tolist() == [[[23, 4], [2, 13]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("winners", [1, 5, 100])
def test_a_code_of_16_bits_gives_what_its_copy_in_float32_gives(dtype, winners):
    code = torch.randn(2, 3, 9, 8, 7, generator=torch.Generator().manual_seed(8)).mul(2).round().to(dtype)
    code = code.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    found, expected = top_winners(code, winners), torch.topk(code.to(exact).flatten(2), winners, dim=2)
    assert found.values_BKN.dtype == exact
    assert torch.equal(found.values_BKN, expected.values) and torch.equal(found.index_BKN, expected.indices)
    upstream = torch.randn(2, 3, winners, generator=torch.Generator().manual_seed(9), dtype=exact)
    gradients = [torch.autograd.grad(values, code, upstream)[0] for values in (found.values_BKN, expected.values)]
    assert gradients[0].dtype == dtype and torch.equal(*gradients)


@pytest.mark.parametrize("winners", [0, 25])
def test_a_map_has_to_have_as_many_voxels_as_winners(winners):
    with pytest.raises(ValueError, match="24 voxels"):
        top_winners(torch.zeros(1, 1, 2, 3, 4), winners)


def test_a_nan_wins():
    code = torch.zeros(1, 1, 2, 3, 4)
    code[0, 0, 1, 1, 1] = torch.nan
    winners = top_winners(code, 2)
    assert winners.values_BKN.isnan().tolist() == [[[True, False]]] and winners.index_BKN[0, 0, 0] == 17


@pytest.mark.parametrize("lifetime", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_give_what_torch_gives(dtype, lifetime, kernel_device, monkeypatch):
    code = torch.randn(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(10)).cumsum(dim=4)
    weight, bias = torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(11)), torch.ones(1)
    assert all(len(own.unique()) == own.numel() for own in code.flatten(2).topk(6).values.to(dtype).flatten(0, 1))
    leaves = [one.to(kernel_device).requires_grad_() for one in (code.to(dtype), weight, bias)]

    def outcome(by_kernels):
        monkeypatch.setattr(kernels, "run_on", lambda device: by_kernels)
        winners = top_winners(leaves[0], 5, lifetime)
        image = sparse_decode(winners, leaves[1], leaves[2], (5, 6, 7))
        return [*winners, image, *torch.autograd.grad(image.square().sum(), leaves)]

    for found, expected in zip(outcome(True), outcome(False), strict=True):
        assert found.dtype == expected.dtype
        error = (found - expected).double().norm() / expected.double().norm()
        assert error <= {torch.int64: 0, torch.float32: 1e-4, torch.bfloat16: 1e-2}[found.dtype]


def test_kernels_leave_double_precision_to_torch(monkeypatch):
    monkeypatch.setattr(kernels, "run_on", lambda device: True)
    winners, weight, bias = _problem(0, 1, 2, 2, 3, (3, 4, 5), torch.float64)
    assert sparse_decode(winners, weight, bias, (3, 4, 5)).dtype == torch.float64


@pytest.mark.parametrize("lifetime, survivors", [(0.0, 4), (0.1, 1), (0.5, 2), (0.74, 2), (0.75, 3), (1.0, 4)])
def test_lifetime_keeps_the_samples_with_the_strongest_activations_of_each_map(lifetime, survivors):
    code = torch.randn(4, 3, 2, 3, 4, generator=torch.Generator().manual_seed(7)).requires_grad_()
    every, found = top_winners(code, 2), top_winners(code, 2, lifetime)
    assert torch.equal(found.index_BKN, every.index_BKN)
    for own in range(3):
        order = code[:, own].flatten(1).amax(dim=1).argsort(descending=True).tolist()
        for rank, sample in enumerate(order):
            expected = every.values_BKN[sample, own] * (rank < survivors)
            assert torch.equal(found.values_BKN[sample, own], expected)
    (found.values_BKN**2).sum().backward()
    expected = torch.zeros(4, 3, 24).scatter(2, found.index_BKN, 2 * found.values_BKN.detach())
    assert code.grad is not None and torch.equal(code.grad, expected.view_as(code))


@given(st.integers(1, 30), st.integers(1, 100))
def test_at_least_one_sample_and_at_most_the_share_survive(batch, percent):
    code = torch.rand(batch, 1, 1, 1, 2, generator=torch.Generator().manual_seed(0)) + 1
    alive = (top_winners(code, 1, percent / 100).values_BKN > 0).sum()
    assert alive == max(1, batch * percent // 100)


def test_the_result_has_the_weights_precision():
    winners, weight, bias = _problem(6, 1, 2, 3, 3, (4, 4, 4))
    half = Winners(winners.values_BKN.to(torch.bfloat16), winners.index_BKN)
    assert sparse_decode(half, weight, bias, (4, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize("position, corner", [(0, (0, 0, 0)), (59, (2, 3, 4))])
def test_a_single_winner_leaves_one_stamp_at_its_place(position, corner):
    weight = torch.arange(27.0).view(1, 1, 3, 3, 3)
    winners = Winners(torch.tensor([[[2.0]]]), torch.tensor([[[position]]]))
    image = sparse_decode(winners, weight, torch.tensor([1.0]), (3, 4, 5))
    z, y, x = corner
    assert image.shape == (1, 1, 5, 6, 7)
    assert torch.equal(image[0, 0, z : z + 3, y : y + 3, x : x + 3], 2 * weight[0, 0] + 1)
    assert image.sum() == 5 * 6 * 7 + 2 * weight.sum()
