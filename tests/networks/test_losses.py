"""The losses equal their formulas, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcseg.networks.losses import dice_ce, huber


def _reference_dice_ce(logits_BCDHW, label_BDHW):
    exponential = np.exp(logits_BCDHW - logits_BCDHW.max(axis=1, keepdims=True))
    probability = exponential / exponential.sum(axis=1, keepdims=True)
    classes = logits_BCDHW.shape[1]
    dice = []
    for index in range(1, classes):
        p, truth = probability[:, index], label_BDHW == index
        dice.append((2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5))
    of_truth = np.take_along_axis(probability, label_BDHW[:, None], axis=1)
    return 1 - np.mean(dice) - np.log(of_truth).mean()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_dice_ce_equals_its_formula(classes):
    generator = np.random.default_rng(classes)
    logits = 3 * generator.normal(size=(3, classes, 4, 5, 6))
    label = generator.integers(classes, size=(3, 4, 5, 6))
    found = dice_ce(torch.from_numpy(logits), torch.from_numpy(label))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(_reference_dice_ce(logits, label), rel=1e-6)


def test_a_perfect_and_confident_prediction_costs_nothing():
    label = torch.randint(2, (2, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = 60.0 * torch.stack((label == 0, label == 1), dim=1).float()
    assert dice_ce(logits, label).item() == pytest.approx(0, abs=1e-6)


def test_no_foreground_anywhere_is_finite_and_differentiable():
    logits = torch.zeros(1, 2, 3, 3, 3, requires_grad=True)
    loss = dice_ce(logits, torch.zeros(1, 3, 3, 3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == pytest.approx(1 + np.log(2), rel=1e-5)
    assert torch.isfinite(logits.grad).all()


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
