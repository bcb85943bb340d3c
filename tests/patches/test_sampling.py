"""Where patches lie is a pure function of (seed, stream, step, slot), with the paper's distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.errors import BadInput
from hpcseg.patches.geometry import Lattice, lattice_bounds
from hpcseg.patches.sampling import (
    Draw,
    Place,
    Stream,
    Targets,
    Use,
    autoencoder_sample,
    foreground_slots,
    segmentation_sample,
)


@dataclass(frozen=True)
class Case:
    shape_zyx: tuple[int, int, int]
    foreground_by_class: dict[int, np.ndarray] = field(default_factory=dict)
    known_voxels: np.ndarray | None = None

    @property
    def foreground_classes(self):
        return tuple(sorted(index for index, voxels in self.foreground_by_class.items() if len(voxels)))


def _voxels(*voxels):
    return np.array(voxels, np.int32).reshape(-1, 3)


CASES = (
    Case((40, 50, 60), {1: _voxels((1, 2, 3), (30, 31, 32)), 2: _voxels((10, 11, 12))}),
    Case((20, 20, 20), {1: _voxels()}),
    Case((33, 44, 55), {1: _voxels((5, 6, 7)), 2: _voxels()}),
)
SNAPPED: dict[str, Any] = {"patch": 16, "lattice": Lattice(4, 2)}
EXACT: dict[str, Any] = {"patch": 7, "lattice": Lattice(1, 0)}  # origin = centre - 3


def _segmentation(seed, stream, step, slot, cases=CASES, **changes):
    targets = Targets(cases, **(SNAPPED | changes))
    return segmentation_sample(targets, Draw(8, seed, stream), step, slot, foreground_share=0.3)


def _autoencoder(seed, step, slot, cases=CASES, sampling="gaussian", sigma=0.25, inside=0.0, **changes):
    targets = Targets(cases, **(EXACT | changes))
    place = Place(sampling, sigma, inside)
    return autoencoder_sample(targets, Draw(8, seed, Stream.AUTOENCODER), step, slot, place=place)


def _number(seed, stream, step, slot, **changes):
    return Draw(8, seed, stream).generator(step, slot, **changes).integers(2**60)


@settings(max_examples=50)
@given(
    seed=st.integers(-(2**70), 2**70),
    stream=st.sampled_from(Stream),
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 63)), min_size=2, max_size=8),
)
def test_draws_do_not_depend_on_their_order(seed, stream, places):
    first = {place: _number(seed, stream, *place) for place in places}
    second = {place: _number(seed, stream, *place) for place in reversed(places)}
    assert first == second


def test_drawn_places_stay_what_they_are():
    assert _segmentation(3, Stream.TRAINING, 11, 2) == (0, (2, 2, 6))
    assert _segmentation(3, Stream.TRAINING, 11, 5) == (0, (18, 30, 18))
    assert _segmentation(3, Stream.TRAINING, 11, 7) == (2, (2, 14, 6))
    assert _autoencoder(3, 11, 4, **SNAPPED) == (0, (-2, 14, 30))
    assert _autoencoder(3, 11, 4, sampling="uniform", **SNAPPED) == (0, (14, -2, 6))


def test_seeds_streams_steps_slots_and_uses_differ():
    drawn = {
        _number(seed, stream, step, slot, use=use)
        for seed in (-1, 0, 1)
        for stream in Stream
        for step in range(5)
        for slot in range(5)
        for use in Use
    }
    assert len(drawn) == 3 * len(Stream) * 25 * len(Use)


def test_neighbouring_draws_are_independent():
    uniform = np.array([[Draw(8, 0, 0).generator(step, slot).random() for slot in range(2)] for step in range(2000)])
    assert abs(uniform.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(uniform[:, 0], uniform[:, 1])[0, 1]) < 0.08
    assert abs(np.corrcoef(uniform[1:, 0], uniform[:-1, 0])[0, 1]) < 0.08


@pytest.mark.parametrize("share, batch, slots", [(0.3, 8, 3), (0.3, 10, 3), (0.07, 100, 7), (0, 8, 0), (1, 8, 8)])
def test_foreground_slots_are_the_share_rounded_up(share, batch, slots):
    assert foreground_slots(share, batch) == slots


def test_the_first_slots_are_centred_on_stored_foreground_and_the_others_anywhere():
    stored = {
        (index, tuple(voxel))
        for index, case in enumerate(CASES)
        for voxels in case.foreground_by_class.values()
        for voxel in voxels.tolist()
    }
    for step in range(100):
        for slot in range(8):
            sample = _segmentation(0, Stream.TRAINING, step, slot, **EXACT)
            centre = tuple(position + 3 for position in sample.origin_3)
            assert all(0 <= c < n for c, n in zip(centre, CASES[sample.case_index].shape_zyx, strict=True))
            if slot < 3:
                assert (sample.case_index, centre) in stored


def test_foreground_is_balanced_over_cases_then_classes_then_voxels():
    centres = [
        (sample.case_index, sample.origin_3[0] + 3)
        for step in range(1500)
        for slot in range(2)
        for sample in [_segmentation(1, Stream.TRAINING, step, slot, **EXACT)]
    ]
    shares = {place: centres.count(place) / len(centres) for place in set(centres)}
    expected = {(2, 5): 0.5, (0, 10): 0.25, (0, 1): 0.125, (0, 30): 0.125}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[place] - expected[place]) < 0.03 for place in expected)


def test_uniform_slots_are_uniform_over_cases_and_voxels():
    samples = [_segmentation(2, Stream.TRAINING, step, 7, **EXACT) for step in range(3000)]
    counts = np.bincount([sample.case_index for sample in samples], minlength=3) / len(samples)
    assert np.abs(counts - 1 / 3).max() < 0.03
    relative = np.array(
        [(np.array(s.origin_3) + 3.5) / CASES[s.case_index].shape_zyx for s in samples]
    )  # uniform on (0, 1): mean 1/2, variance 1/12
    assert np.abs(relative.mean(axis=0) - 1 / 2).max() < 0.02
    assert np.abs(relative.var(axis=0) - 1 / 12).max() < 0.005


@given(st.integers(0, 1000), st.integers(0, 7), st.sampled_from([1, 2, 4, 8]), st.integers(0, 7))
def test_origins_lie_on_the_lattice_near_the_drawn_one(step, slot, lattice, phase):
    phase %= lattice
    exact = _segmentation(3, Stream.VALIDATION, step, slot, lattice=Lattice(1, 0))
    snapped = _segmentation(3, Stream.VALIDATION, step, slot, lattice=Lattice(lattice, phase))
    assert snapped.case_index == exact.case_index
    for found, wanted in zip(snapped.origin_3, exact.origin_3, strict=True):
        assert (found - phase) % lattice == 0
        assert 2 * abs(found - wanted) <= lattice


def test_no_foreground_anywhere_is_refused_only_where_it_is_wanted():
    cases = (Case((9, 9, 9)), CASES[1])
    with pytest.raises(BadInput, match=r"patches\.foreground_share"):
        _segmentation(0, 0, 0, 0, cases)
    assert _segmentation(0, 0, 0, 3, cases).case_index in (0, 1)


def test_no_case_at_all_is_refused():
    with pytest.raises(BadInput, match="no volume"):
        _autoencoder(0, 0, 0, ())


def test_gaussian_centres_follow_the_truncated_normal_around_the_image_centre():
    centres = np.array(
        [
            (np.array(sample.origin_3) + 3.5) / CASES[sample.case_index].shape_zyx
            for step in range(1500)
            for slot in range(2)
            for sample in [_autoencoder(4, step, slot)]
        ]
    )
    assert centres.min() > 0 and centres.max() < 1
    assert np.abs(centres.mean(axis=0) - 0.5).max() < 0.02
    truncated = 0.25 * np.sqrt(1 - 2 * 2 * np.exp(-2) / np.sqrt(2 * np.pi) / 0.954500)  # cut at ± 2 σ
    assert np.abs(centres.std(axis=0) - truncated).max() < 0.01


def test_uniform_autoencoder_centres_reach_the_borders():
    positions = {_autoencoder(5, step, 0, CASES[1:2], sampling="uniform").origin_3[0] for step in range(400)}
    assert positions == set(range(-3, 17))


def test_a_wide_gaussian_stays_inside():
    for step in range(100):
        sample = _autoencoder(6, step, 0, sigma=20.0)
        shape_zyx = CASES[sample.case_index].shape_zyx
        assert all(-3 <= origin < size - 3 for origin, size in zip(sample.origin_3, shape_zyx, strict=True))


def test_around_the_image_centre_organ_sampling_is_gaussian_sampling():
    middles = [tuple(size / 2 for size in case.shape_zyx) for case in CASES]
    for step in range(50):
        assert _autoencoder(7, step, 1, centres=middles, sampling="organ") == _autoencoder(7, step, 1)


def test_organ_centres_are_those_of_each_volume_and_stay_inside():
    centres = [(3.0, 45.0, 30.0), (10.0, 10.0, 19.5), (20.0, 5.0, 50.0)]
    found: dict[int, list[np.ndarray]] = {index: [] for index in range(3)}
    for step in range(600):
        sample = _autoencoder(8, step, 0, centres=centres, sampling="organ", sigma=0.03)
        centre = np.array(sample.origin_3) + 3
        assert all(0 <= c < n for c, n in zip(centre, CASES[sample.case_index].shape_zyx, strict=True))
        found[sample.case_index].append(centre + 0.5)
    for index in (0, 2):  # far enough from the border that nothing is drawn again
        assert np.abs(np.mean(found[index], axis=0) - centres[index]).max() < 0.4


def test_an_organ_that_was_not_located_is_refused():
    for centres in ((), [None] * 3):
        with pytest.raises(BadInput, match="not located"):
            _autoencoder(0, 0, 0, centres=centres, sampling="organ")


SIZES = st.integers(1, 60)
LATTICES = st.sampled_from([1, 2, 4, 8]).flatmap(
    lambda step: st.builds(Lattice, st.just(step), st.integers(0, step - 1))
)


def _shared(origin_3, shape_zyx, patch):
    """Voxels of a patch that lie within a volume, counted one by one along each axis."""
    return math.prod(
        sum(0 <= voxel < size for voxel in range(origin, origin + patch))
        for origin, size in zip(origin_3, shape_zyx, strict=True)
    )


@settings(max_examples=60)
@given(
    shape=st.tuples(SIZES, SIZES, SIZES),
    patch=st.integers(4, 40),
    lattice=LATTICES,
    inside=st.floats(0.01, 1),
    sampling=st.sampled_from(["gaussian", "uniform", "organ"]),
    seed=st.integers(0, 1000),
)
def test_a_patch_keeps_its_share_inside_or_as_much_as_the_scan_allows(shape, patch, lattice, inside, sampling, seed):
    settings = {"patch": patch, "lattice": lattice, "centres": [tuple(0.9 * size for size in shape)]}
    centre = range(-patch - 8, max(shape) + 8)
    on_lattice = [origin for origin in centre if (origin - lattice.phase) % lattice.step == 0]
    most = math.prod(max(_shared([origin], [size], patch) for origin in on_lattice) for size in shape)
    for slot in range(4):
        sample = _autoencoder(seed, 3, slot, [Case(shape)], sampling=sampling, inside=inside, **settings)
        assert all((origin - lattice.phase) % lattice.step == 0 for origin in sample.origin_3)
        assert _shared(sample.origin_3, shape, patch) >= min(inside * patch**3, most) - 1e-6
        assert sample == _autoencoder(seed, 3, slot, [Case(shape)], sampling=sampling, inside=inside, **settings)


@given(size=st.integers(24, 60), inside=st.floats(0, 1))
def test_bounds_are_a_ramp_that_is_as_wide_as_the_share_allows(size, inside):
    """Every axis may hang over by what the cube root of the share leaves, on both sides; rounding helps others."""
    (low, high), *others = lattice_bounds((size, 10**4, 10**4), 24, Lattice(1, 0), inside)
    voxels = max(1, math.ceil(24 * inside ** (1 / 3) - 1e-9))
    assert (low, high) == (voxels - 24, size - voxels)
    for other, end in others:
        assert other + end == 10**4 - 24
        assert voxels - 1 <= other + 24 <= voxels or other == -23


def test_the_more_is_wanted_inside_the_narrower_the_bounds():
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    widths = [
        [high - low for low, high in lattice_bounds((30, 40, 50), 24, Lattice(4, 2), inside)] for inside in shares
    ]
    assert all(a >= b for one, other in pairwise(widths) for a, b in zip(one, other, strict=True))
    assert widths[0] != widths[-1]


def test_a_draw_that_lies_far_enough_inside_stays_where_it_was():
    drawn = [
        (_autoencoder(1, step, 0, **SNAPPED), _autoencoder(1, step, 0, inside=0.9, **SNAPPED)) for step in range(300)
    ]
    bounds = [lattice_bounds(case.shape_zyx, 16, Lattice(4, 2), 0.9) for case in CASES]
    fits = [
        all(low <= o <= high for o, (low, high) in zip(free.origin_3, bounds[free.case_index], strict=True))
        for free, _ in drawn
    ]
    assert 30 < sum(fits) < 290
    for (free, kept), fit in zip(drawn, fits, strict=True):
        assert free.case_index == kept.case_index
        assert (free == kept) is fit


def test_uniform_centres_stay_uniform_where_they_may_be():
    drawn = [_autoencoder(2, step, 0, [Case((20, 20, 20))], sampling="uniform", inside=1.0) for step in range(3000)]
    for axis in range(3):
        counts = np.bincount([sample.origin_3[axis] for sample in drawn], minlength=14)
        assert len(counts) == 14 and abs(counts / 3000 - 1 / 14).max() < 0.02


def test_where_voxels_are_left_out_patches_are_centred_on_others() -> None:
    known = _voxels((3, 4, 5), (20, 30, 9))
    targets = Targets([Case((40, 50, 60), known_voxels=known)], **EXACT)
    draw = Draw(batch=4, seed=3, stream=Stream.TRAINING)
    drawn = {segmentation_sample(targets, draw, step, 2, foreground_share=0.0).origin_3 for step in range(40)}
    assert drawn == {(0, 1, 2), (17, 27, 6)}
