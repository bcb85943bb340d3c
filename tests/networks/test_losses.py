"""The losses equal their formulas, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg import kernels
from hpcseg.config import AutoencoderConfig, TrainingConfig
from hpcseg.networks.losses import dice_ce, focal, huber, l2, reconstruction_error, segmentation_loss
from tests.networks.checks import captured


def _softmax(logits_BCDHW):
    exponential = np.exp(logits_BCDHW - logits_BCDHW.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def _reference_focal(logits_BCDHW, label_BDHW, gamma):
    of_truth = np.take_along_axis(_softmax(logits_BCDHW), label_BDHW[:, None], axis=1)
    return -((1 - of_truth) ** gamma * np.log(of_truth)).mean()


def _reference_dice_ce(logits_BCDHW, label_BDHW):
    probability = _softmax(logits_BCDHW)
    classes = logits_BCDHW.shape[1]
    dice = []
    for index in range(1, classes):
        p, truth = probability[:, index], label_BDHW == index
        dice.append((2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5))
    of_truth = np.take_along_axis(probability, label_BDHW[:, None], axis=1)
    return 1 - np.mean(dice) - np.log(of_truth).mean()


def _slopes(function, logits, step=1e-5):
    """Gradient of a scalar function by central differences."""
    gradient = np.empty_like(logits)
    for place in np.ndindex(logits.shape):
        shift = np.zeros_like(logits)
        shift[place] = step
        gradient[place] = (function(logits + shift) - function(logits - shift)) / (2 * step)
    return gradient


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    classes=st.integers(2, 5),
    shape=st.tuples(*[st.integers(1, 3)] * 3),
    scale=st.floats(0.1, 4),
    gamma=st.sampled_from([None, 0.0, 0.5, 1.0, 2.0, 3.5]),  # None: Dice-CE
)
def test_losses_equal_their_formulas_in_values_and_gradients(seed, batch, classes, shape, scale, gamma):
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(batch, classes, *shape))
    label = generator.integers(classes, size=(batch, *shape))
    given = torch.from_numpy(logits).requires_grad_()

    def reference(logits):
        return _reference_dice_ce(logits, label) if gamma is None else _reference_focal(logits, label, gamma)

    truth = torch.from_numpy(label)
    found = dice_ce(given, truth) if gamma is None else focal(given, truth, gamma)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(reference(logits), rel=1e-5, abs=1e-7)
    expected = _slopes(reference, logits)
    assert np.abs(given.grad.numpy() - expected).max() < 1e-5 * max(np.abs(expected).max(), 1e-2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_a_voxel_without_doubt_is_0_and_has_a_gradient(gamma):
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = focal(logits, torch.zeros(1, 1, 1, 1, dtype=torch.int64), gamma)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_focal_loss_of_bfloat16_logits_is_computed_in_float32():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 2, 32, 32, 32, generator=generator).bfloat16()
    label = torch.randint(2, (2, 32, 32, 32), generator=generator)
    expected = _reference_focal(logits.double().numpy(), label.numpy(), 2.0)
    assert focal(logits, label, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_configuration_chooses_the_loss():
    generator = torch.Generator().manual_seed(3)
    logits, label = torch.randn(1, 3, 2, 3, 4, generator=generator), torch.ones(1, 2, 3, 4, dtype=torch.int64)
    assert segmentation_loss(TrainingConfig(), logits, label) == dice_ce(logits, label)
    config = TrainingConfig(loss="focal", focal_gamma=3.0)
    assert segmentation_loss(config, logits, label) == focal(logits, label, 3.0)
    found, image = logits[:, :1], logits[:, 1:2]
    robust = AutoencoderConfig(huber_delta=0.3)
    assert reconstruction_error(robust, found, image) == huber(found, image, 0.3)
    assert reconstruction_error(AutoencoderConfig(loss="l2"), found, image) == l2(found, image)


def test_a_perfect_and_confident_prediction_costs_nothing():
    label = torch.randint(2, (2, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = 60.0 * torch.stack((label == 0, label == 1), dim=1).float()
    assert dice_ce(logits, label).item() == pytest.approx(0, abs=1e-6)


def test_no_foreground_anywhere_is_finite_and_differentiable():
    logits = torch.zeros(1, 2, 3, 3, 3, requires_grad=True)
    loss = dice_ce(logits, torch.zeros(1, 3, 3, 3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == pytest.approx(1 + np.log(2), rel=1e-5)
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_dice_pools_the_batch_before_it_divides():
    label = torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    label[0] = 1
    logits = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    single = (dice_ce(logits[:1], label[:1]) + dice_ce(logits[1:], label[1:])) / 2
    assert dice_ce(logits, label).item() != pytest.approx(single.item(), rel=1e-3)
    assert dice_ce(logits, label).item() == pytest.approx(
        _reference_dice_ce(logits.double().numpy(), label.numpy()), rel=1e-6
    )


def test_sums_over_a_large_bfloat16_batch_stay_exact():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 2, 48, 48, 48, generator=generator).bfloat16()
    label = torch.randint(2, (2, 48, 48, 48), generator=generator)
    expected = _reference_dice_ce(logits.double().numpy(), label.numpy())
    assert dice_ce(logits, label).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_huber_equals_its_formula(delta):
    generator = np.random.default_rng(3)
    reconstruction, image = 2 * generator.normal(size=(2, 3, 1, 5, 5, 5))
    error = np.abs(reconstruction - image)
    expected = np.where(error <= delta, error**2 / 2, delta * (error - delta / 2)).mean()
    found = huber(torch.from_numpy(reconstruction), torch.from_numpy(image), delta)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_l2_is_the_huber_loss_of_errors_below_its_delta():
    generator = np.random.default_rng(4)
    reconstruction, image = generator.uniform(0, 1, size=(2, 3, 1, 5, 5, 5))
    expected = ((reconstruction - image) ** 2 / 2).mean()
    pair = torch.from_numpy(reconstruction), torch.from_numpy(image)
    assert l2(*pair).item() == pytest.approx(expected, rel=1e-6)
    assert l2(*pair).item() == pytest.approx(huber(*pair, 1.0).item(), rel=1e-6)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", ["dice_ce", "focal", "huber", "l2"])
def test_on_a_gpu_no_loss_waits_and_all_are_deterministic(name, alone):
    generator = torch.Generator().manual_seed(5)
    given = torch.randn(2, 3, 9, 8, 7, generator=generator).cuda().requires_grad_()
    label = torch.randint(3, (2, 9, 8, 7), generator=generator).cuda()
    image = torch.randn(2, 3, 9, 8, 7, generator=generator).cuda()
    losses = {
        "dice_ce": lambda: dice_ce(given, label, lambda tensor: 2 * tensor),
        "focal": lambda: focal(given, label, 2.0),
        "huber": lambda: huber(given, image, 1.0),
        "l2": lambda: l2(given, image),
    }

    def step():
        with kernels.torch_alone(alone):
            loss = losses[name]()
        return loss, *torch.autograd.grad(loss, given)

    expected = step()
    assert all(torch.equal(*pair) for pair in zip(captured(step), expected, strict=True))
