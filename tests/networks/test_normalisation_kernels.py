"""The kernels of batch norm and ReLU compute what torch does in float64, and stand in only where they may."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpcseg import kernels
from hpcseg.networks.normalisation import norm_relu
from hpcseg.training.norm import SharedBatchNorm
from hpcseg.training.ranks import ALONE
from tests.networks.checks import captured, guarded, off

LIMIT = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@pytest.fixture
def fused(kernel_device, monkeypatch):
    """The kernels' module; the public function uses it wherever the kernels run."""
    from hpcseg.networks.kernels import norm

    monkeypatch.setattr(kernels, "run_on", lambda device: device.type == kernel_device.type)
    return norm


def _channels_last(maps):
    return maps.contiguous(memory_format=torch.channels_last_3d)


def _random(shape, dtype, device, seed, mean=0.5, deviation=2.0):
    generator = torch.Generator().manual_seed(seed)
    maps = mean + deviation * torch.randn(shape, generator=generator)
    slope = torch.randn(shape, generator=generator)
    return _channels_last(maps.to(device, dtype)), _channels_last(slope.to(device, dtype))


def _norm(maps, device, seed, momentum=0.1):
    norm = nn.BatchNorm3d(maps, momentum=momentum)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.normal_(1, 0.5, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
        norm.running_mean.normal_(generator=generator)
    return norm.to(device)


def _expected(norm, maps, slope):
    """Result, gradients of maps, weight and bias, and the norm afterwards; by torch in float64 on the CPU."""
    norm = copy.deepcopy(norm).cpu().double()
    maps = maps.detach().cpu().double().requires_grad_()
    out = functional.relu(norm(maps))
    out.backward(slope.cpu().double())
    return out, maps.grad, norm.weight.grad, norm.bias.grad, norm


def _check(norm, maps, slope, limit):
    expected = _expected(norm, maps, slope)
    own = norm, maps.clone(memory_format=torch.preserve_format).requires_grad_()
    with guarded():
        out = norm_relu(*own)
        out.backward(slope)
    assert out.dtype == maps.dtype
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(own[1], maps)  # kept for the backward pass
    errors = [off(*pair) for pair in zip((out, own[1].grad, norm.weight.grad, norm.bias.grad), expected, strict=False)]
    assert max(errors) <= limit, errors
    assert norm.weight.grad.dtype == norm.bias.grad.dtype == torch.float32
    assert off(norm.running_mean, expected[4].running_mean) <= 1e-5
    assert off(norm.running_var, expected[4].running_var) <= 1e-5
    assert norm.num_batches_tracked == expected[4].num_batches_tracked == 1


@pytest.mark.pairs
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(2, 1, 5, 4, 3), (1, 3, 7, 5, 3), (3, 32, 5, 6, 7), (1, 64, 9, 4, 5), (3, 33, 1, 1, 1), (1, 2, 1, 1, 5)]
)
def test_results_gradients_and_running_statistics(fused, kernel_device, shape, dtype, seed):
    maps, slope = _random(shape, dtype, kernel_device, seed)
    _check(_norm(shape[1], kernel_device, seed), maps, slope, LIMIT[dtype])


@pytest.mark.parametrize(
    "chunks, tile, shape", [(5, 64, (2, 3, 5, 7, 9)), (3, 32, (1, 32, 3, 4, 5)), (7, 8, (3, 1, 4, 5, 3))]
)
def test_many_chunks_of_many_tiles(fused, kernel_device, monkeypatch, chunks, tile, shape):
    monkeypatch.setattr(fused, "CHUNKS", chunks)
    monkeypatch.setattr(fused, "_TILE", tile)
    maps, slope = _random(shape, torch.float32, kernel_device, 3)
    _check(_norm(shape[1], kernel_device, 3), maps, slope, 1e-5)


@pytest.mark.parametrize("mean, deviation", [(1000.0, 1e-2), (-300.0, 3e-3), (30.0, 1e-4), (0.0, 1e-4)])
def test_variances_small_beside_the_mean_and_near_epsilon(fused, kernel_device, monkeypatch, mean, deviation):
    monkeypatch.setattr(fused, "CHUNKS", 4)
    monkeypatch.setattr(fused, "_TILE", 128)
    maps, slope = _random((2, 4, 6, 7, 5), torch.float32, kernel_device, 4, mean, deviation)
    _check(_norm(4, kernel_device, 4), maps, slope, 1e-5)


@pytest.mark.parametrize("background", [0.0, 40.0])
def test_a_chunk_whose_first_voxels_are_unlike_the_others(fused, kernel_device, monkeypatch, background):
    monkeypatch.setattr(fused, "CHUNKS", 2)
    monkeypatch.setattr(fused, "_TILE", 128)
    maps, slope = _random((1, 4, 16, 8, 8), torch.float32, kernel_device, 5, 7.0, 0.01)
    maps[:, :, 0] = background
    maps[:, :, 8] = background
    _check(_norm(4, kernel_device, 5), maps, slope, 1e-5)


@pytest.mark.parametrize("momentum", [0.3, 0.0, 1.0])
def test_running_statistics_over_several_batches(fused, kernel_device, momentum):
    norm = _norm(6, kernel_device, 6, momentum)
    reference = copy.deepcopy(norm).cpu().double()
    for seed in range(3):
        maps, _ = _random((2, 6, 3, 4, 5), torch.float32, kernel_device, seed)
        with torch.no_grad():
            norm_relu(norm, maps)
        reference(maps.cpu().double())
    assert off(norm.running_mean, reference.running_mean) <= 1e-6
    assert off(norm.running_var, reference.running_var) <= 1e-6
    assert norm.num_batches_tracked == 3


def test_gradients_are_given_as_far_as_wanted(fused, kernel_device):
    maps, slope = _random((1, 4, 3, 4, 5), torch.float32, kernel_device, 7)
    expected = _expected(_norm(4, kernel_device, 7), maps, slope)
    for wanted in ((True, False, False), (False, True, True), (False, False, True), (True, True, False)):
        norm, own = _norm(4, kernel_device, 7), maps.clone(memory_format=torch.preserve_format)
        leaves = own, norm.weight, norm.bias
        for leaf, flag in zip(leaves, wanted, strict=True):
            leaf.requires_grad_(flag)
        norm_relu(norm, own).backward(slope)
        for leaf, flag, gradient in zip(leaves, wanted, expected[1:4], strict=True):
            assert off(leaf.grad, gradient) <= 1e-5 if flag else leaf.grad is None


def test_other_memory_layouts_are_taken(fused, kernel_device):
    maps, slope = _random((2, 5, 3, 4, 6), torch.float32, kernel_device, 8)
    norm = _norm(5, kernel_device, 8)
    expected = _expected(norm, maps, slope)
    own = maps.contiguous().requires_grad_()
    out = norm_relu(norm, own)
    out.backward(slope.contiguous())
    assert off(out, expected[0]) <= 1e-5 and off(own.grad, expected[1]) <= 1e-5


def test_what_is_no_number_stays_none(fused, kernel_device):
    maps, slope = _random((1, 3, 3, 3, 3), torch.float32, kernel_device, 9)
    maps[0, 1, 1, 1, 1] = torch.nan
    maps.requires_grad_()
    out = norm_relu(_norm(3, kernel_device, 9), maps)
    out.backward(slope)
    for found in (out, maps.grad):
        assert found[:, 1].isnan().all() and not found[:, ::2].isnan().any()


def test_the_same_bits_again(fused, kernel_device):
    shape = (8, 32, 40, 40, 40) if kernel_device.type == "cuda" else (2, 8, 9, 9, 9)
    found = []
    for _ in range(3):
        maps, slope = _random(shape, torch.bfloat16, kernel_device, 10)
        norm = _norm(shape[1], kernel_device, 10)
        out = norm_relu(norm, maps.requires_grad_())
        out.backward(slope)
        found.append((out, maps.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


def test_what_the_kernels_do_not_do_goes_the_old_way(fused, kernel_device, monkeypatch):
    def refuse(*_):
        raise AssertionError("the kernels were used")

    monkeypatch.setattr(fused, "norm_relu", refuse)
    maps, _ = _random((2, 4, 3, 3, 3), torch.float32, kernel_device, 11)
    with pytest.raises(AssertionError, match="were used"):
        norm_relu(_norm(4, kernel_device, 11), maps)
    others = [
        (_norm(4, kernel_device, 11).eval(), maps),
        (SharedBatchNorm(_norm(4, kernel_device, 11), ALONE), maps),
        (_norm(4, kernel_device, 11, None), maps),
        (nn.BatchNorm3d(4, affine=False, device=kernel_device), maps),
        (nn.BatchNorm3d(4, track_running_stats=False, device=kernel_device), maps),
        (_norm(4, kernel_device, 11).double(), maps.double()),
    ]
    for norm, given in others:
        expected = functional.relu(copy.deepcopy(norm)(given))
        assert torch.equal(norm_relu(norm, given.clone()), expected)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm_relu(_norm(4, kernel_device, 11), maps[:1, :, :1, :1, :1])
    monkeypatch.setattr(kernels, "run_on", lambda device: False)
    norm_relu(_norm(4, kernel_device, 11), maps)


@pytest.mark.needs_gpu  # too slow for the interpreter
def test_a_large_batch_on_a_gpu(fused, kernel_device):
    for dtype, limit in LIMIT.items():
        maps, slope = _random((4, 32, 45, 44, 43), dtype, kernel_device, 12, 3.0, 0.01)
        _check(_norm(32, kernel_device, 12), maps, slope, limit)


@pytest.mark.needs_gpu
def test_a_cuda_graph_replays_it(fused, kernel_device):
    maps, slope = _random((2, 32, 13, 12, 11), torch.bfloat16, kernel_device, 13)
    norm = _norm(32, kernel_device, 13)
    leaves = maps.requires_grad_(), norm.weight, norm.bias

    def step():
        out = norm_relu(norm, maps)
        return out, *torch.autograd.grad(out, leaves, slope)

    expected = step()
    assert all(torch.equal(*pair) for pair in zip(captured(step), expected, strict=True))
    assert norm.num_batches_tracked == 4  # a capture alone counts none
