"""The sparse decoder is the transposed convolution of the winners' code, in values and in every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.networks import winners as module
from hpcseg.networks.winners import Winners, dense_decode, sparse_decode, top_winners


def _problem(seed, batch, maps, count, edge, shape, dtype=torch.float32):
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


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    maps=st.integers(1, 5),
    count=st.integers(1, 4),
    edge=st.sampled_from([1, 3, 7]),
    shape=st.tuples(*[st.integers(2, 7)] * 3),
)
def test_sparse_decoder_equals_the_dense_one_in_values_and_gradients(seed, batch, maps, count, edge, shape):
    problem = _problem(seed, batch, maps, count, edge, shape)
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


def test_gradients_reach_the_winners_alone():
    code = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(5)).requires_grad_()
    winners = top_winners(code, 2)
    (winners.values_BKN**2).sum().backward()
    expected = torch.zeros(2, 3, 64).scatter(2, winners.index_BKN, 2 * winners.values_BKN.detach())
    assert torch.equal(code.grad, expected.view_as(code))


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
