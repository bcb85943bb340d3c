"""The kernels of Dice loss and cross-entropy give what the formulas give in float64, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hpcseg import kernels
from hpcseg.networks.losses import SMOOTHING, dice_ce
from tests.networks.checks import guarded, off

LIMIT = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
LAYOUTS = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}
SHAPES = [(2, 2, 5, 14, 11), (1, 3, 6, 5, 3), (3, 5, 4, 3, 3), (1, 16, 3, 3, 3), (2, 2, 1, 1, 1)]


@pytest.fixture
def fused(kernel_device, monkeypatch):
    """The kernels' module; the public function uses it wherever the kernels run."""
    from hpcseg.networks.kernels import dice

    monkeypatch.setattr(kernels, "run_on", lambda device: device.type == kernel_device.type)
    return dice


def _random(shape, dtype, device, seed, layout=torch.channels_last_3d, scale=2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, generator=generator)
    label = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits.to(device, dtype).contiguous(memory_format=layout), label.to(device)


def _formula(logits, label):
    """Mean cross-entropy, overlap and total of each foreground class."""
    log_probability = functional.log_softmax(logits, dim=1)
    probability, classes = log_probability.exp(), logits.shape[1]
    truth = functional.one_hot(label, classes).movedim(-1, 1).to(logits.dtype)
    entropy, over = -(truth * log_probability).sum(1).mean(), (0, 2, 3, 4)
    return entropy, (truth * probability).sum(over)[1:], (truth + probability).sum(over)[1:]


def _reference(logits, label):
    entropy, overlap, total = _formula(logits, label)
    return 1 - ((2 * overlap + SMOOTHING) / (total + SMOOTHING)).mean() + entropy


def _expected(logits, label):
    logits = logits.detach().cpu().double().requires_grad_()
    loss = _reference(logits, label.cpu())
    loss.backward()
    return loss, logits.grad


def _check(logits, label, limit):
    expected = _expected(logits, label)
    logits = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with guarded():
        loss = dice_ce(logits, label)
        loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.dtype == logits.dtype
    # Whatever the logits' dtype; Dice near 1 is rounded before it is taken from 1, with kernels or without.
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-5, abs=3e-7)
    assert off(logits.grad, expected[1]) <= limit


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient(fused, kernel_device, shape, layout, dtype, seed):
    _check(*_random(shape, dtype, kernel_device, seed, LAYOUTS[layout]), LIMIT[dtype])


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_each_sum_has_its_own_gradient(fused, kernel_device, layout):
    logits, label = _random((2, 4, 3, 5, 4), torch.float32, kernel_device, 2, LAYOUTS[layout])
    weights = torch.tensor([0.7, -1.3, 0.2]).to(kernel_device)
    reference = logits.cpu().double().requires_grad_()
    leaf = logits.requires_grad_()
    for place in range(3):
        found, expected = fused.sums(leaf, label)[place], _formula(reference, label.cpu())[place]
        assert off(found, expected) <= 1e-6
        factor = weights if place else weights[0]
        (own,) = torch.autograd.grad((found * factor).sum(), leaf)
        (right,) = torch.autograd.grad((expected * factor.cpu().double()).sum(), reference)
        assert off(own, right) <= 1e-5


@pytest.mark.parametrize("programs, tile, combined", [(6, 32, 2), (1, 16, 4), (12, 8, 8)])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_many_chunks_of_many_tiles(fused, kernel_device, monkeypatch, layout, programs, tile, combined):
    monkeypatch.setattr(fused, "_PROGRAMS", programs)
    monkeypatch.setattr(fused, "_TILE", tile)
    monkeypatch.setattr(fused, "COMBINED", combined)
    _check(*_random((2, 3, 3, 3, 4), torch.float32, kernel_device, 3, LAYOUTS[layout]), 1e-5)


@pytest.mark.parametrize("certainty", [3.0, 6.0, 9.0])
def test_the_loss_of_a_good_prediction_is_as_precise(fused, kernel_device, certainty):
    logits, label = _random((1, 2, 12, 11, 10), torch.float32, kernel_device, 12, scale=1.0)
    logits += certainty * torch.stack((label == 0, label == 1), 1)
    _check(logits, label, 1e-4)  # of float32, most of a gradient is the rounding of 1 - p


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_logits_of_all_sizes_with_a_class_that_is_absent(fused, kernel_device, scale):
    logits, label = _random((2, 4, 5, 6, 4), torch.float32, kernel_device, 4, scale=scale)
    _check(logits, label.clamp_max(2), 1e-5)
    _check(logits, torch.zeros_like(label), 1e-5)
    _check(logits + 1000, label, 1e-5)


def test_layouts_that_are_neither_and_labels_that_are_not_contiguous(fused, kernel_device):
    logits, label = _random((2, 3, 6, 5, 4), torch.float32, kernel_device, 5)
    _check(logits[:, :, 1:-1, :, ::2], label[:, 1:-1, :, ::2], 1e-5)
    _check(logits, label.transpose(1, 2).contiguous().transpose(1, 2), 1e-5)


def test_a_label_that_is_no_class_is_as_without_kernels(fused, kernel_device, monkeypatch):
    logits, label = _random((1, 3, 4, 4, 4), torch.float32, kernel_device, 6)
    label[0, 0], label[0, 1], label[0, 2] = -1, 9, 3  # 3 is below the power of two to which classes are filled up
    found = []
    for used in (True, False):
        monkeypatch.setattr(kernels, "run_on", lambda device, used=used: used)
        leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()
        loss = dice_ce(leaf, label)
        loss.backward()
        found.append((loss, leaf.grad))
    assert all(off(*pair) <= 1e-5 for pair in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_logit_that_is_no_number_makes_the_loss_none(fused, kernel_device, bad):
    logits, label = _random((1, 2, 4, 4, 4), torch.float32, kernel_device, 7)
    for place in (0, 1):
        spoilt = logits.clone(memory_format=torch.preserve_format)
        spoilt[0, place, 2, 1, 3] = bad
        assert dice_ce(spoilt, label).isnan()


def test_over_ranks_the_same_sums_are_reduced(fused, kernel_device, monkeypatch):
    logits, label = _random((2, 3, 4, 4, 4), torch.float32, kernel_device, 8)
    found = []
    for used in (True, False):
        monkeypatch.setattr(kernels, "run_on", lambda device, used=used: used)
        leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()
        seen: list[torch.Tensor] = []

        def reduce(tensor, seen=seen):
            seen.append(tensor.detach())
            return 2 * tensor

        loss = dice_ce(leaf, label, reduce)
        loss.backward()
        found.append((loss, leaf.grad, *seen))
    assert [one.shape for one in found[0][2:]] == [(2, 2), (2,)]
    assert all(off(*pair) <= 1e-5 for pair in zip(*found, strict=True))


def test_what_the_kernels_do_not_take_goes_the_old_way(fused, kernel_device, monkeypatch):
    def refuse(*_):
        raise AssertionError("the kernels were used")

    logits, label = _random((1, 2, 3, 3, 3), torch.float32, kernel_device, 9)
    monkeypatch.setattr(fused, "sums", refuse)
    with pytest.raises(AssertionError, match="were used"):
        dice_ce(logits, label)
    expected = dice_ce(logits.double(), label)
    assert dice_ce(logits, label.int()) == expected
    with kernels.torch_alone():
        monkeypatch.undo()
        assert dice_ce(logits, label) == expected


def test_the_same_bits_again(fused, kernel_device):
    edge = 72 if kernel_device.type == "cuda" else 9
    found = []
    for _ in range(3):
        logits, label = _random((4, 2, edge, edge, edge), torch.bfloat16, kernel_device, 10)
        loss = dice_ce(logits.requires_grad_(), label)
        loss.backward()
        assert logits.grad is not None
        found.append((loss, logits.grad))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.needs_gpu  # too slow for the interpreter
def test_a_large_batch_on_a_gpu(fused, kernel_device):
    for dtype, limit in LIMIT.items():
        for layout in LAYOUTS.values():
            _check(*_random((8, 2, 72, 72, 72), dtype, kernel_device, 11, layout), limit)
