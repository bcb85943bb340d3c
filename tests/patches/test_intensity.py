"""Changes of intensity against their definitions, and as random numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from hpcseg.config import AugmentationConfig
from hpcseg.patches.intensity import Look, blurred, change, draw_look
from hpcseg.patches.sampling import Draw, Stream, Use

WINDOW = (-1.5, 2.5)
DRAWN = (0.8275520833372698, 0.9679091671446259, -0.22253661794377422, 0.38171623116413766, 0.11200564715448574)
EVERY = AugmentationConfig(enabled=True, brightness=0.5, contrast=0.3, gamma=0.4, noise=0.2, blur=1.5)


def image(size=12, batch=1):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 1, *(size,) * 3, generator=generator) * 4 - 1.5


def changed(values, level=0, **look):
    values = values.clone()
    change(values, level, [Look(window=WINDOW, **look)] * len(values))
    return values


def drawn(config, count=400):
    draw = Draw(batch=4, seed=1, stream=Stream.TRAINING)
    return [draw_look(config, draw.generator(step, 3, Use.INTENSITY), WINDOW) for step in range(count)]


def test_the_defaults_change_nothing():
    assert torch.equal(changed(image()), image())


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("exponent", [0.5, 1.7])
def test_gamma_is_a_power_of_the_share_of_the_window_on_every_level(exponent, level):
    values = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5]).view(1, 1, 1, 1, 5)
    expected = [4 * share**exponent - 1.5 for share in (0, 0.25, 0.5, 0.75, 1)]
    found = changed(values, level, exponent=exponent).flatten().tolist()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("level", [0, 2])
def test_a_curve_is_straight_between_its_knots_and_may_turn_the_order_round(level):
    values = torch.tensor([-2.0, -1.5, -1.0, -0.5, 0.5, 1.5, 2.5, 3.0]).view(1, 1, 1, 1, 8)
    found = changed(values, level, curve=(0.0, 1.0, 0.5, 0.5, 0.75)).flatten()
    expected = [4 * share - 1.5 for share in (0, 0, 0.5, 1, 0.5, 0.5, 0.75, 0.75)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    straight = tuple(np.linspace(0, 1, 5).tolist())
    torch.testing.assert_close(changed(image(), level, curve=straight), image())


def test_knots_are_moved_within_their_limit():
    config = EVERY.model_copy(update={"curve": 0.2, "intensity_share": 0.5})
    curves = [look.curve for look in drawn(config, 2000)]
    moved = np.array([curve for curve in curves if curve]) - np.linspace(0, 1, 5)
    assert len(moved) / 2000 == pytest.approx(0.5, abs=0.03)
    assert 0.19 < np.abs(moved).max() <= 0.2 and (np.abs(moved[:, 1:4]).max(0) > 0.19).all()
    assert moved[:, 0].min() == 0 and moved[:, 4].max() == 0  # never out of the window


def test_a_window_without_width_has_neither_curve_nor_gamma():
    values = torch.zeros(1, 1, 2, 2, 2)
    change(values, 0, [Look(window=(0.0, 0.0), exponent=2.0, curve=(1.0, 0.0))])
    assert torch.equal(values, torch.zeros(1, 1, 2, 2, 2))


def test_contrast_multiplies_and_brightness_is_added_after_gamma():
    found = changed(image(), exponent=2.0, factor=1.25, shift=-0.5)
    share = (image() + 1.5) / 4
    torch.testing.assert_close(found, (4 * share**2 - 1.5) * 1.25 - 0.5)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 1.0, 2.3])
def test_a_blur_is_scipys(sigma):
    values = image(20)[0, 0]
    expected = gaussian_filter(values.double().numpy(), sigma, mode="nearest")
    np.testing.assert_allclose(blurred(values, sigma).numpy(), expected, atol=1e-6)


def test_a_blur_is_as_wide_in_millimetres_on_every_level_and_left_out_where_it_is_narrow():
    for level, sigma in ((0, 0.9), (1, 0.45), (2, 0.225)):
        assert torch.equal(changed(image(), level, blur=0.9)[0, 0], blurred(image()[0, 0], sigma))
    assert torch.equal(changed(image(), 3, blur=0.9), image())


@pytest.mark.parametrize("level", [0, 1, 2])
def test_noise_is_white_and_as_strong_as_in_a_mean_of_voxels(level):
    found = (changed(torch.zeros(1, 1, 40, 40, 40), level, noise=0.5, seed=7)[0, 0]).double().numpy()
    sigma = 0.5 / 8 ** (level / 2)
    assert found.std() == pytest.approx(sigma, rel=0.01)
    assert abs(found.mean()) < 4 * sigma / 40**1.5
    kurtosis = ((found / found.std()) ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=0.1)
    for axis in range(3):
        assert abs((found * np.roll(found, 1, axis)).mean()) < 0.02 * sigma**2


def test_noise_is_a_function_of_the_seed_and_the_level():
    first, again, other = (changed(image(), noise=0.5, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    apart = [changed(torch.zeros(1, 1, 8, 8, 8), level, noise=0.5, seed=7) * 8 ** (level / 2) for level in (0, 1)]
    assert np.corrcoef(apart[0].flatten(), apart[1].flatten())[0, 1] < 0.2


def test_noise_is_not_blurred():
    noise = changed(torch.zeros_like(image()), noise=0.5, seed=3)
    assert torch.equal(changed(image(), blur=1.0, noise=0.5, seed=3), changed(image(), blur=1.0) + noise)


@pytest.mark.parametrize("size", [30, 84])
def test_a_patch_does_not_depend_on_the_others_or_on_the_threads(size):
    values, looks = image(size, 3), drawn(EVERY.model_copy(update={"intensity_share": 1.0}), 3)
    together, alone, threads = values.clone(), values[1:2].clone(), torch.get_num_threads()
    change(together, 0, looks)
    try:
        torch.set_num_threads(3)
        change(alone, 0, looks[1:2])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together[1:2])


def test_draws_are_pure_within_limits_fill_them_and_come_as_often_as_asked():
    assert drawn(EVERY, 5) == drawn(EVERY, 5)
    looks = drawn(EVERY, 4000)
    for values, limit in (
        ([math.log(look.exponent) for look in looks], 0.4),
        ([math.log(look.factor) for look in looks], 0.3),
        ([look.shift for look in looks], 0.5),
        ([look.blur for look in looks], 1.5),
        ([look.noise for look in looks], 0.2),
    ):
        found = np.array(values)
        assert (found != 0).mean() == pytest.approx(0.3, abs=0.03)
        assert 0.95 * limit < np.abs(found).max() <= limit
    both = np.mean([look.shift != 0 and look.noise != 0 for look in looks])
    assert both == pytest.approx(0.09, abs=0.02)  # each is drawn for itself
    assert len({look.seed for look in looks}) == len(looks)


def test_draws_stay_what_they_are():
    (look,) = drawn(EVERY.model_copy(update={"intensity_share": 1.0}), 1)
    found = (look.exponent, look.factor, look.shift, look.blur, look.noise)
    assert found == pytest.approx(DRAWN, rel=1e-12)
    assert look.seed == 3504825053908405057


@given(
    key=st.sampled_from(["brightness", "contrast", "gamma", "noise", "blur", "curve"]),
    step=st.integers(0, 10**6),
    share=st.floats(0, 1),
)
def test_each_change_is_the_same_whatever_the_others_may_be(key, step, share):
    every = EVERY.model_copy(update={"intensity_share": share, "curve": 0.5})
    off = dict.fromkeys(("brightness", "contrast", "gamma", "noise", "blur", "curve"), 0.0)
    alone = every.model_copy(update=off | {key: getattr(every, key)})
    field = {"brightness": "shift", "contrast": "factor", "gamma": "exponent"}.get(key, key)
    generator = Draw(batch=4, seed=1, stream=Stream.TRAINING).generator
    looks = [draw_look(config, generator(step, 0, Use.INTENSITY), WINDOW) for config in (every, alone)]
    assert getattr(looks[0], field) == getattr(looks[1], field)
    assert looks[1] == replace(Look(window=WINDOW, seed=looks[0].seed), **{field: getattr(looks[0], field)})
