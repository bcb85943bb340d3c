"""Transformed patches show, on ramps, the place that the transform says, the same on every level and in the label."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import NdBSpline
from scipy.ndimage import map_coordinates

from hpcseg.config import AugmentationConfig
from hpcseg.patches.augmentation import Transform, View, draw_transform, growth, largest_box, rotation, view
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.elastic import ControlGrid, positions
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.interpolation import linear, nearest
from hpcseg.patches.sampling import Draw, Stream, Use
from hpcseg.patches.source import Source
from hpcseg.volumes.normalise import Normalisation
from tests.patches.boxes import read_box

SHAPE = (96, 104, 100)
SLOPES = np.array([2.0, 3.0, 1.0])
QUARTER = math.pi / 2
GEOMETRY = FovealGeometry(24, 3, 3)
RECIPE = AugmentationConfig(
    enabled=True,
    translation=4,
    mirror=("x", "z"),
    elastic=3,
    elastic_spacing=16,
    brightness=0.5,
    contrast=0.3,
    gamma=0.4,
    noise=0.2,
    blur=1.5,
)


@pytest.fixture(scope="module")
def store(packed):
    z, y, x = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    ramp = (2 * z + 3 * y + x + 1).astype(np.float32)
    label = (z >= 48).astype(np.uint8)
    generator = np.random.default_rng(0)
    noise = generator.integers(-900, 900, (41, 38, 44)).astype(np.float32)
    classes = generator.integers(0, 3, noise.shape).astype(np.uint8)
    return packed({"ramp": (ramp, label), "noise": (noise, classes)}, clip=None, classes=((1,), (2,)))


@pytest.fixture(scope="module")
def case(store):
    return store.case("ramp")


@pytest.fixture(scope="module")
def noise(store):
    return store.case("noise")


def transform(angle=0.0, scale=1.0, shift=(0, 0, 0), centre=(48.0, 52.0, 50.0)):
    c, s = math.cos(angle), math.sin(angle)
    matrix = scale * np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return Transform(matrix, np.asarray(shift, float), np.asarray(centre))


def tensors(shown: View, box: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    places = torch.tensor([[0, shown.shape_3[1] * shown.shape_3[2], shown.shape_3[2]]], dtype=torch.int32)
    return torch.from_numpy(box.ravel()), places, torch.from_numpy(shown.map_34)[None].float()


def shown_image(case, level, corner_3, size, how):
    shown = view(level, corner_3, size, how)
    codes = linear(*tensors(shown, case.read(shown.level, shown.start_3, shown.shape_3)), size)
    return codes[0].double().numpy() * case.coding.slope + case.coding.intercept


def shown_label(case, corner_3, size, how):
    shown = view(0, corner_3, size, how)
    return nearest(*tensors(shown, case.read_label(shown.start_3, shown.shape_3)), size)[0].numpy()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_without_a_transform_it_is_plain_reading(case, level):
    plain = case.coding.decode(read_box(case, level, (40, 48, 32), 7, None))
    np.testing.assert_array_equal(shown_image(case, level, (40, 48, 32), 7, transform()), plain)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "how", [{"angle": 0.3}, {"scale": 0.8}, {"shift": (2.5, -1, 4.25)}, {"angle": -0.2, "scale": 1.2}]
)
def test_on_a_ramp_every_level_shows_the_transformed_place(case, level, how):
    corner, size, t = (40, 44, 42), 16 >> level, transform(**how)
    axes = [c + (np.arange(size) + 0.5) * 2**level - 0.5 for c in corner]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    place = (place - t.centre_3) @ t.matrix_33.T + t.centre_3 + t.shift_3
    np.testing.assert_allclose(shown_image(case, level, corner, size, t), place @ SLOPES + 1, atol=2e-2)


@pytest.mark.parametrize("level, corner", [(0, (9, 11, 10)), (1, (8, 6, 10)), (2, (4, 8, 0))])
def test_a_quarter_turn_turns_the_voxels(noise, level, corner):
    size = 8
    centre = [c + (size * 2**level - 1) / 2 for c in corner]
    turned = transform(QUARTER, centre=centre)  # of the plane y, x
    plain = noise.coding.decode(read_box(noise, level, corner, size, None))
    expected = np.rot90(plain, -1, axes=(1, 2))
    np.testing.assert_allclose(shown_image(noise, level, corner, size, turned), expected, atol=2e-2)
    label = noise.read_label(corner, (size,) * 3)
    np.testing.assert_array_equal(
        shown_label(noise, corner, size, transform(QUARTER, centre=np.add(corner, 3.5))),
        np.rot90(label, -1, axes=(1, 2)),
    )


def test_twice_the_scale_shows_every_other_voxel(noise):
    twice = transform(scale=2.0, centre=(20, 18, 22))
    every_other = noise.coding.decode(noise.read(0, (12, 10, 14), (16, 16, 16)))[::2, ::2, ::2]
    np.testing.assert_allclose(shown_image(noise, 0, (16, 14, 18), 8, twice), every_other, atol=1e-2)
    label = noise.read_label((12, 10, 14), (16, 16, 16))[::2, ::2, ::2]
    np.testing.assert_array_equal(shown_label(noise, (16, 14, 18), 8, twice), label)


def test_half_a_voxel_of_translation_shows_the_mean_of_two(noise):
    box = noise.coding.decode(noise.read(0, (10, 12, 9), (9, 8, 8)))
    moved = shown_image(noise, 0, (10, 12, 9), 8, transform(shift=(0.5, 0, 0)))
    np.testing.assert_allclose(moved, (box[1:] + box[:-1]) / 2, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    level=st.integers(0, 4),
    corner_3=st.tuples(*[st.integers(-30, 50)] * 3),
    size=st.integers(1, 9),
    angles=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    scale=st.floats(0.7, 1.4),
    shift=st.tuples(*[st.floats(-10, 10)] * 3),
)
def test_every_value_is_scipys_at_the_defined_place(noise, level, corner_3, size, angles, scale, shift):
    stored = min(level, 3)
    t = Transform(scale * rotation(angles), np.array(shift), np.array([20.0, 19.0, 22.0]))
    axes = [c + (np.arange(size) + 0.5) * 2**level - 0.5 for c in corner_3]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    place = (place - t.centre_3) @ t.matrix_33.T + t.centre_3 + t.shift_3
    margin = 130  # stored voxels around the volume, so that none is missing
    shape = np.add(noise.shape_of(stored), 2 * margin)
    surroundings = noise.coding.decode(noise.read(stored, (-margin,) * 3, shape.tolist()))
    coordinates = np.moveaxis((place + 0.5) / 2**stored - 0.5 + margin, -1, 0)
    expected = map_coordinates(surroundings, coordinates, order=1)
    np.testing.assert_allclose(shown_image(noise, level, corner_3, size, t), expected, atol=0.3)  # of 1,800
    if level == 0:
        classes = noise.read_label((-margin,) * 3, shape.tolist())
        away = np.abs(coordinates % 1 - 0.5).min(axis=0) > 1e-4
        found = shown_label(noise, corner_3, size, t)
        voxels = tuple(np.rint(coordinates).astype(int))
        np.testing.assert_array_equal(found[away], classes[voxels][away])


def test_the_label_is_the_nearest_voxels(case):
    moved = shown_label(case, (40, 44, 42), 16, transform(shift=(3.4, 0, 0)))
    assert (np.unique(moved[:5]) == 0).all()  # 40 + 4 + 3.4 rounds to 47
    assert (np.unique(moved[5:]) == 1).all()


def test_outside_the_volume_is_padding(case):
    box = shown_image(case, 1, (-60, -60, -60), 8, transform(angle=0.1))
    np.testing.assert_array_equal(box, -1000)
    assert (shown_label(case, (-60, 0, 0), 8, transform(angle=0.1)) == 0).all()


def test_draws_are_pure_within_limits_and_fill_them():
    config = AugmentationConfig(enabled=True, translation=10, rotation=15, log_scale=0.2)
    draw = Draw(batch=4, seed=1, stream=Stream.TRAINING)
    generators = [draw.generator(step, 3, Use.TRANSFORM) for step in (*range(300), 7)]
    *drawn, again = (draw_transform(config, generator, (0, 0, 0)) for generator in generators)
    assert np.array_equal(drawn[7].matrix_33, again.matrix_33)
    shifts = np.array([t.shift_3 for t in drawn])
    assert 9 < np.abs(shifts).max() <= 10
    scales = np.array([np.cbrt(np.linalg.det(t.matrix_33)) for t in drawn])
    assert math.exp(-0.2) <= scales.min() < 0.84
    assert 1.19 < scales.max() <= math.exp(0.2)
    rotations = [t.matrix_33 / s for t, s in zip(drawn, scales, strict=True)]
    assert all(np.allclose(r @ r.T, np.eye(3)) for r in rotations)


def test_drawn_transforms_stay_what_they_are():
    generator = Draw(batch=4, seed=3, stream=Stream.TRAINING).generator(11, 2, Use.TRANSFORM)
    drawn = draw_transform(AugmentationConfig(enabled=True), generator, (0, 0, 0))
    np.testing.assert_allclose(drawn.shift_3, [-4.02280102312053, -0.35474213738060, -9.33731109254802], rtol=1e-12)
    np.testing.assert_allclose(
        drawn.matrix_33[1], [-0.05875037679960596, 0.9180396716566801, 0.24055697557434494], rtol=1e-12
    )


angle_share = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1))


@settings(max_examples=400, deadline=None)
@given(
    config=st.builds(
        AugmentationConfig,
        enabled=st.just(True),
        translation=st.floats(0, 50),
        rotation=st.one_of(st.sampled_from([0.0, 15.0, 25.0, 25.1, 45.0, 180.0]), st.floats(0, 180)),
        log_scale=st.floats(0, 1),
        elastic=st.floats(0, 12),
    ),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    bend_shares=st.tuples(*[angle_share] * 3),
    shares=st.tuples(*[angle_share] * 3),
    scale_share=angle_share,
    shift_shares=st.tuples(*[st.floats(-1, 1)] * 3),
    level=st.integers(0, 4),
    corner_3=st.tuples(*[st.integers(-200, 700)] * 3),
    size=st.integers(1, 90),
)
def test_no_box_exceeds_the_bound_and_every_position_has_its_neighbours(
    config, shares, scale_share, signs, bend_shares, shift_shares, level, corner_3, size
):
    angles = [math.radians(config.rotation) * share for share in shares]
    matrix = math.exp(config.log_scale * scale_share) * rotation(angles) * np.array(signs)
    assert np.abs(matrix).sum(axis=1).max() <= growth(config) * (1 + 1e-12)
    centre = np.add(corner_3, size * 2**level / 2)
    bend_3 = matrix @ (config.elastic * np.array(bend_shares))
    controls = np.tile(bend_3[:, None, None, None], (1, 4, 4, 4))
    shift_3 = config.translation * np.array(shift_shares)
    shown = view(level, corner_3, size, Transform(matrix, shift_3, centre, controls))
    assert max(shown.shape_3) <= largest_box(config, level, size)
    ends = np.array(list(itertools.product((0, size - 1), repeat=3)))
    places = ends.astype(np.float32) @ shown.map_34[:, :3].T.astype(np.float32) + shown.map_34[:, 3].astype(np.float32)
    places += (bend_3 / 2 ** min(level, 3)).astype(np.float32)
    assert places.min() >= 0
    assert (places < np.array(shown.shape_3) - 1).all()


def test_the_bound_is_reached():
    config = AugmentationConfig(enabled=True)
    angle = math.radians(15)
    shapes = [
        view(0, (0, 0, 0), 84, Transform(math.exp(0.2) * rotation(signs), np.zeros(3), np.zeros(3))).shape_3
        for signs in itertools.product((-angle, angle), repeat=3)
    ]
    assert largest_box(config, 0, 84) - 1 <= np.max(shapes) <= largest_box(config, 0, 84) == 153


def batches(case, config):
    sources = [Source(case, Normalisation(0, 600, 0, 1), None)]
    draw = Draw(batch=4, seed=0, stream=Stream.TRAINING, lattice=4, augmentation=config)
    return SegmentationBatches(sources, GEOMETRY, draw, foreground_share=0.3)


def test_batches_are_pure_and_differ_from_plain_ones(case):
    config = AugmentationConfig(enabled=True)
    first, second = batches(case, config).batch(5), batches(case, config).batch(5)
    assert all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    assert torch.equal(first.label_BDHW, second.label_BDHW)
    plain = batches(case, None).batch(5)
    assert not torch.equal(first.images[0], plain.images[0])
    off = batches(case, AugmentationConfig()).batch(5)
    assert all(torch.equal(a, b) for a, b in zip(off.images, plain.images, strict=True))


def test_labels_move_with_the_image(case):
    batch = batches(case, AugmentationConfig(enabled=True)).batch(0)
    margin = -GEOMETRY.origins[0]
    target = batch.images[0][:, 0, margin : margin + 24, margin : margin + 24, margin : margin + 24]
    inside = (target > 1) & (target < 590)
    # Where z >= 48 alone decides the label, brighter voxels are labelled more often.
    assert target[inside & (batch.label_BDHW == 1)].mean() > target[inside & (batch.label_BDHW == 0)].mean()


def one_way(**changes):
    """Nothing but what is changed."""
    return AugmentationConfig(enabled=True, **{"translation": 0, "rotation": 0, "log_scale": 0, **changes})


def pairs(case, config, steps=12):
    """Each patch: images, label and first corner, as it is and as it is shown."""
    plain, shown = batches(case, None), batches(case, config)
    for step in range(steps):
        before, after = plain.batch(step), shown.batch(step)
        for slot in range(4):
            origin_3 = plain.sample(step, slot).origin_3
            yield (*((batch.images[0][slot, 0], batch.label_BDHW[slot]) for batch in (before, after)), origin_3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_the_patches_are_mirrored_about_the_targets_centre_image_and_label_alike(noise, axis):
    seen = []
    for (image, label), (mirrored, mirrored_label), _ in pairs(noise, one_way(mirror=("zyx"[axis],))):
        seen.append(not torch.equal(image, mirrored))
        if seen[-1]:
            torch.testing.assert_close(mirrored, image.flip(axis), atol=2e-2, rtol=0)
            assert torch.equal(mirrored_label, label.flip(axis))
    assert 10 < sum(seen) < 38


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_mirrored_ramp_falls_where_it_rose_on_every_level(case, level):
    centre, corner, size = (51.5, 55.5, 53.5), [c + GEOMETRY.origins[level] for c in (40, 44, 42)], 9
    mirror = Transform(np.diag([1.0, 1.0, -1.0]), np.zeros(3), np.array(centre))
    places = [c + (np.arange(size) + 0.5) * 2**level - 0.5 for c in corner]
    z, y, x = np.meshgrid(*places, indexing="ij")
    expected = 2 * z + 3 * y + (2 * centre[2] - x) + 1
    np.testing.assert_allclose(shown_image(case, level, corner, size, mirror), expected, atol=2e-2)


def test_axes_are_mirrored_for_themselves():
    def signs(axes):
        draw = Draw(batch=4, seed=1, stream=Stream.TRAINING)
        generators = [draw.generator(step, 0, Use.TRANSFORM) for step in range(50)]
        config = one_way(mirror=axes)
        return np.array([np.diag(draw_transform(config, generator, (0, 0, 0)).matrix_33) for generator in generators])

    assert np.array_equal(signs(("z", "y", "x"))[:, 2], signs(("x",))[:, 2])
    assert (signs(("x",))[:, :2] == 1).all() and (signs(()) == 1).all()


def test_a_deformed_ramp_shows_the_place_of_each_voxel_on_every_level_and_in_the_label(case):
    """Control vectors, drawn from the same counters, evaluated by scipy's spline."""
    config = AugmentationConfig(enabled=True, translation=2, elastic=3, elastic_spacing=16)
    grid = ControlGrid.over(GEOMETRY, 16)
    shown = batches(case, config)
    for step in range(3):
        batch = shown.batch(step)
        for slot in range(4):
            centre = np.add(shown.sample(step, slot).origin_3, 11.5)
            generator = Draw(batch=4, seed=0, stream=Stream.TRAINING).generator(step, slot, Use.TRANSFORM)
            t = draw_transform(config, generator, centre, grid.count)
            assert t.controls_3NNN is not None and 2 < np.abs(t.controls_3NNN).max() <= 3 * growth(config)
            for image, level in zip(batch.images, range(3), strict=True):
                place = deformed(t, grid, positions(GEOMETRY, level, GEOMETRY.origins[level], image.shape[-1]))
                inside = ((place > 8) & (place < np.array(SHAPE) - 9)).all(axis=-1)
                expected = np.clip(place @ SLOPES + 1, 0, 600)
                np.testing.assert_allclose(image[slot, 0].numpy()[inside], expected[inside], atol=5e-2)
            place = deformed(t, grid, positions(GEOMETRY, 0, 0, 24))
            sure = (np.abs(place[..., 0] - 47.5) > 1e-3) & ((place > 1) & (place < np.array(SHAPE) - 2)).all(axis=-1)
            label = batch.label_BDHW[slot].numpy()
            np.testing.assert_array_equal(label[sure], (place[..., 0] > 47.5)[sure])


def deformed(t, grid, places):
    """Where the voxels of a cube at these places along each axis are shown from, (D, D, D, 3)."""
    knots = (np.arange(-2, grid.count + 2) - (grid.count - 1) / 2) * grid.spacing
    spline = NdBSpline((knots,) * 3, np.moveaxis(t.controls_3NNN, 0, -1), 3)
    place = np.stack(np.meshgrid(places, places, places, indexing="ij"), axis=-1)
    return place @ t.matrix_33.T + t.centre_3 + t.shift_3 + spline(place)


def test_what_is_constant_stays_constant(packed):
    volume, label = np.full((60, 60, 60), 40, np.float32), np.ones((60, 60, 60), np.uint8)
    flat = packed({"flat": (volume, label)}, padding=40.0, clip=None).case("flat")
    geometry = FovealGeometry(8, 3, 2)
    draw = Draw(batch=4, seed=0, stream=Stream.TRAINING, augmentation=RECIPE.model_copy(update={"noise": 0.0}))
    sources = [Source(flat, Normalisation(0, 100, 0, 50), None)]
    for image in SegmentationBatches(sources, geometry, draw, foreground_share=0).batch(1).images:
        for patch in image:
            torch.testing.assert_close(patch, patch[:, :1, :1, :1].expand_as(patch))


def test_changes_of_intensity_leave_the_geometry_as_it_is(case):
    other = RECIPE.model_copy(update={"brightness": 0, "contrast": 0, "gamma": 0, "noise": 0, "blur": 0})
    assert RECIPE.changes_intensity and not other.changes_intensity
    for step in range(3):
        first, second = batches(case, RECIPE).batch(step), batches(case, other).batch(step)
        assert torch.equal(first.label_BDHW, second.label_BDHW)
        assert not torch.equal(first.images[0], second.images[0])


def test_what_could_fold_a_patch_is_refused():
    AugmentationConfig(elastic=6.4, elastic_spacing=16)
    with pytest.raises(ValueError, match=r"elastic = 6\.5 exceeds 0\.4 of elastic_spacing = 16.*lower it"):
        AugmentationConfig(elastic=6.5, elastic_spacing=16)
