"""Merging's kernels, and what stands in for them on GPUs without, copy and add up as torch does on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hpcseg import kernels
from hpcseg.networks.merging import cut, doubled, merged
from tests.networks.checks import captured, guarded, off

LIMIT = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}
SIZES = [
    ((2, 3, 5, 4, 7), (2, 5, 3, 2, 4)),
    ((1, 1, 6, 6, 6), (1, 1, 3, 3, 3)),
    ((2, 32, 4, 6, 2), (2, 32, 2, 3, 1)),
    ((1, 32, 5, 5, 5), (1, 64, 4, 3, 5)),  # what is too much is cut off
    ((3, 7, 1, 1, 1), (3, 2, 1, 1, 1)),
    ((1, 4, 1, 9, 3), (1, 3, 2, 7, 2)),
]


@pytest.fixture
def fused(kernel_device, monkeypatch):
    """The kernels' module; the public function uses it wherever the kernels run."""
    from hpcseg.networks.kernels import merge

    monkeypatch.setattr(kernels, "run_on", lambda device: device.type == kernel_device.type)
    return merge


def _random(shape, dtype, device, seed):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    return maps.contiguous(memory_format=torch.channels_last_3d)


def _given(sizes, dtype, device, seed):
    fine, coarse = (_random(shape, dtype, device, seed + place) for place, shape in enumerate(sizes))
    slope = _random((len(fine), fine.shape[1] + coarse.shape[1], *fine.shape[2:]), dtype, device, seed + 2)
    return fine, coarse, slope


def _expected(fine, coarse, slope):
    """Result and gradients, by torch in float64 on the CPU."""
    fine, coarse = (maps.detach().cpu().double().requires_grad_() for maps in (fine, coarse))
    out = torch.cat((fine, cut(functional.interpolate(coarse, scale_factor=2, mode="nearest"), fine)), dim=1)
    out.backward(slope.cpu().double())
    return out, fine.grad, coarse.grad


@pytest.mark.pairs
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize("sizes", SIZES)
def test_results_and_gradients(fused, kernel_device, sizes, dtype, seed):
    fine, coarse, slope = _given(sizes, dtype, kernel_device, seed)
    expected = _expected(fine, coarse, slope)
    leaves = fine.requires_grad_(), coarse.requires_grad_()
    with guarded():
        out = merged(*leaves)
        out.backward(slope)
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(out.detach().cpu().double(), expected[0].detach())
    assert torch.equal(fine.grad.cpu().double(), expected[1])
    assert off(coarse.grad, expected[2]) <= LIMIT[dtype]


def test_gradients_of_16_bits_are_added_up_in_float32(fused, kernel_device):
    slope = torch.ones(1, 2, 2, 2, 2, device=kernel_device, dtype=torch.bfloat16)
    slope[0, 1, 0, 0] = torch.tensor([256, 2])  # bfloat16 cannot add 1 to that
    coarse = torch.zeros(1, 1, 1, 1, 1, device=kernel_device, dtype=torch.bfloat16, requires_grad=True)
    merged(torch.zeros_like(slope[:, :1]), coarse).backward(slope)
    assert coarse.grad.item() == 264


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_gradients_are_given_as_far_as_wanted(fused, kernel_device, wanted):
    fine, coarse, slope = _given(SIZES[0], torch.float32, kernel_device, 3)
    expected = _expected(fine, coarse, slope)
    leaves = fine.requires_grad_(wanted[0]), coarse.requires_grad_(wanted[1])
    with guarded():
        merged(*leaves).backward(slope)
    for leaf, flag, gradient in zip(leaves, wanted, expected[1:], strict=True):
        assert off(leaf.grad, gradient) <= 1e-6 if flag else leaf.grad is None


def test_other_memory_layouts_are_taken(fused, kernel_device):
    fine, coarse, slope = _given(SIZES[0], torch.float32, kernel_device, 4)
    expected = _expected(fine, coarse, slope)
    leaves = fine.contiguous().requires_grad_(), coarse.contiguous().requires_grad_()
    out = merged(*leaves)
    out.backward(slope.contiguous())
    assert all(off(*pair) <= 1e-6 for pair in zip((out, leaves[0].grad, leaves[1].grad), expected, strict=True))


def test_what_does_not_go_together_goes_the_old_way(fused, kernel_device):
    fine, coarse, _ = _given(SIZES[0], torch.float32, kernel_device, 5)
    assert merged(fine, coarse.bfloat16()).dtype == torch.float32
    assert merged(fine.double(), coarse.double()).dtype == torch.float64
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        merged(fine, coarse[:, :, :2])


@pytest.mark.parametrize("shape", [(2, 3, 4, 2, 3), (1, 1, 2, 1, 1), (1, 32, 2, 3, 2)])
def test_doubling_without_kernels_is_interpolation_with_gradients_added_in_one_order(kernel_device, shape):
    maps, slope = (
        _random(shape, torch.float32, "cpu", 6),
        _random((*shape[:2], *(2 * e for e in shape[2:])), torch.float32, "cpu", 7),
    )
    reference = maps.clone().double().requires_grad_()
    expected = functional.interpolate(reference, scale_factor=2, mode="nearest")
    expected.backward(slope.double())
    own = maps.to(kernel_device).requires_grad_()
    out = doubled(own)
    out.backward(slope.to(kernel_device))
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(out.detach().cpu().double(), expected.detach())
    assert off(own.grad, reference.grad) <= 1e-6


@pytest.mark.parametrize("alone", [True, False])
def test_the_same_bits_again(fused, kernel_device, monkeypatch, alone):
    if alone:
        monkeypatch.setattr(kernels, "run_on", lambda device: False)
    sizes = SIZES[0] if kernel_device.type == "cpu" else ((4, 32, 39, 38, 40), (4, 32, 20, 19, 20))
    found = []
    for _ in range(3):
        fine, coarse, slope = _given(sizes, torch.bfloat16, kernel_device, 8)
        out = merged(fine.requires_grad_(), coarse.requires_grad_())
        out.backward(slope)
        found.append((out, fine.grad, coarse.grad))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))
    expected = _expected(fine, coarse, slope)
    assert all(off(*pair) <= 1e-2 for pair in zip(found[0], expected, strict=True))


@pytest.mark.needs_gpu
@pytest.mark.parametrize("alone", [True, False])
def test_a_cuda_graph_replays_it(fused, kernel_device, monkeypatch, alone):
    fine, coarse, slope = _given(SIZES[0], torch.bfloat16, kernel_device, 9)
    leaves = fine.requires_grad_(), coarse.requires_grad_()

    if alone:
        monkeypatch.setattr(kernels, "run_on", lambda device: False)

    def step():
        out = merged(*leaves)
        return out, *torch.autograd.grad(out, leaves, slope)

    expected = step()
    assert all(torch.equal(*pair) for pair in zip(captured(step), expected, strict=True))
