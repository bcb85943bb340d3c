"""The organ is found where it is, from labelled volumes alone, and the middle is taken where nothing is like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.config import PreprocessingConfig
from hpcseg.errors import BadInput
from hpcseg.patches.organ import OrganFinder, _Spectra, labelled_organ
from hpcseg.patches.source import Source
from hpcseg.phantoms.dataset import write_phantoms
from hpcseg.spec import PackSpec
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.normalise import Normalisation, normalisation
from hpcseg.volumes.packing import pack
from hpcseg.volumes.store import Store

PLACES = {"a": (20, 30, 22), "b": (26, 18, 28), "c": (18, 24, 35), "d": (24, 33, 30)}
SHAPE = (44, 52, 56)


def _volume(centre, *, seed, shape=SHAPE):
    """A bright body in noise, with a darker core off its centre, and its label."""
    z, y, x = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    away = [(z - centre[0]) / 6, (y - centre[1]) / 9, (x - centre[2]) / 8]
    body = sum(part**2 for part in away) < 1
    core = sum(part**2 for part in (away[0] * 2, away[1] * 2, away[2] * 2 - 0.6)) < 1
    noise = np.random.default_rng(seed).normal(0, 15, shape)
    return (noise + 100 * body - 80 * core).astype(np.float32), body.astype(np.uint8)


@pytest.fixture(scope="module")
def sources(packed):
    volumes = {name: _volume(centre, seed=index) for index, (name, centre) in enumerate(PLACES.items())}
    volumes["bare"] = (_volume(PLACES["d"], seed=3)[0], None)
    volumes["empty"] = (np.random.default_rng(9).normal(0, 15, SHAPE).astype(np.float32), None)
    volumes["cut"] = (_volume((24, 30, 53), seed=7)[0], None)
    volumes["louder"] = (5 * _volume(PLACES["d"], seed=3)[0] + 200, None)
    store = packed(volumes, clip=None)
    how = Normalisation(-900, 900, 0, 100)
    return {name: Source(store.case(name), how, store.pyramid_clip) for name in store.names}


@pytest.fixture(scope="module")
def finder(sources):
    return OrganFinder([sources[name] for name in "abc"])


def _distance(organ, place):
    return np.abs(np.subtract(organ.centre_3, place)).max()


def test_a_label_gives_its_centre_of_mass(sources):
    for name, place in PLACES.items():
        organ = labelled_organ(sources[name].case)
        assert _distance(organ, place) < 0.3
        assert (organ.known, organ.likeness) == ("label", None)
    assert labelled_organ(sources["bare"].case) is None
    assert labelled_organ(sources["empty"].case) is None


def test_the_organ_is_found_to_a_voxel_of_the_level_that_is_compared(finder, sources):
    organ = finder.find(sources["bare"])
    assert organ.known == "likeness" and organ.likeness > 0.6
    assert _distance(organ, PLACES["d"]) < 2


def test_its_own_label_is_not_looked_at(finder, sources):
    assert finder.find(sources["d"]) == finder.find(sources["bare"])


def test_brightness_and_contrast_do_not_matter(finder, sources):
    assert _distance(finder.find(sources["louder"]), PLACES["d"]) < 2


def test_an_organ_at_the_edge_of_the_volume_is_found(finder, sources):
    organ = finder.find(sources["cut"])
    assert _distance(organ, (24, 30, 53)) < 3


def test_a_volume_that_is_like_none_gives_its_middle(finder, sources):
    organ = finder.find(sources["empty"])
    assert organ.known == "middle" and organ.likeness < 0.25
    assert organ.centre_3 == tuple(n / 2 for n in SHAPE)


def test_two_finders_of_the_same_volumes_agree(finder, sources):
    again = OrganFinder([sources[name] for name in "abc"])
    assert [again.find(sources[name]) for name in PLACES] == [finder.find(sources[name]) for name in PLACES]


def test_one_labelled_volume_is_enough_and_empty_ones_are_passed_over(sources):
    found = OrganFinder([sources["empty"], sources["a"]]).find(sources["bare"])
    assert _distance(found, PLACES["d"]) < 3


def test_labelled_volumes_without_foreground_are_refused(sources):
    with pytest.raises(BadInput, match=r"data\.foreground"):
        OrganFinder([sources["empty"]])


def test_a_volume_smaller_than_the_templates_is_no_error(finder, packed, sources):
    tiny = packed({"tiny": (np.random.default_rng(0).normal(0, 9, (5, 4, 3)).astype(np.float32), None)}, clip=None)
    organ = finder.find(replace(sources["a"], case=tiny.case("tiny")))
    assert organ.known == "middle"


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    half=st.tuples(*[st.integers(0, 2)] * 3),
    seed=st.integers(0, 2**31),
)
def test_likeness_is_the_correlation_of_the_voxels_that_both_have(shape, half, seed):
    generator = np.random.default_rng(seed)
    image = generator.normal(size=shape)
    size = tuple(2 * h + 1 for h in half)
    mask = (generator.random(size) < 0.8).astype(float)
    template = generator.normal(size=size) * mask
    found = _Spectra(image, size).likeness(template, mask)
    for place in np.ndindex(*shape):
        pairs = [
            (image[at], template[t])
            for t in np.ndindex(*size)
            for at in [tuple(p + i - h for p, i, h in zip(place, t, half, strict=True))]
            if mask[t] and all(0 <= a < n for a, n in zip(at, shape, strict=True))
        ]
        if len(pairs) < mask.sum() / 2:
            assert found[place] == -1
        elif len(pairs) > 2:
            ours, theirs = np.array(pairs).T
            assert found[place] == pytest.approx(np.corrcoef(ours, theirs)[0, 1], abs=1e-4)


def test_the_livers_of_phantoms_are_found_to_a_few_voxels(tmp_path):
    write_phantoms(tmp_path / "phantoms", training=5, test=0, size=64)
    ct = {"spacing_zyx": (4.0, 4.0, 4.0), "padding": -1000.0, "pyramid_clip": (-200.0, 400.0)}
    misses, _, inside = _left_out(tmp_path, open_dataset(tmp_path / "phantoms").training, "window", **ct)
    assert max(misses) < 6  # of 4 mm
    assert np.mean(misses) < 4
    assert all(inside)


def test_real_hippocampi_are_found_better_than_by_the_middle(shared_data, tmp_path):
    mr = {"spacing_zyx": (1.0, 1.0, 1.0), "padding": "minimum", "pyramid_clip": None}
    apart = open_dataset(shared_data / "Task04_Hippocampus").training[:14:2]
    misses, of_middle, inside = _left_out(tmp_path, apart, "zscore", **mr)
    assert np.mean(misses) < 0.7 * np.mean(of_middle)
    assert sum(inside) > 5


def _left_out(folder, cases, intensity, **changes):
    """Locate each case from the others: voxels by which that misses, by which the middle does, whether it is inside."""
    spec = PackSpec(id="p", dataset="p", cases=cases, classes=((1, 2),), **changes)
    pack(spec, folder / "store.h5")
    misses, of_middle, inside = [], [], []
    with Store(folder / "store.h5") as store:
        sources = []
        for case in map(store.case, store.names):
            how = normalisation(PreprocessingConfig(intensity=intensity), case.histogram, None)
            sources.append(Source(case, how, store.pyramid_clip))
        for source in sources:
            organ = OrganFinder([other for other in sources if other is not source]).find(source)
            truth_3 = labelled_organ(source.case).centre_3
            misses.append(np.linalg.norm(np.subtract(organ.centre_3, truth_3)))
            of_middle.append(np.linalg.norm(np.array(source.case.shape_zyx) / 2 - truth_3))
            inside.append(source.case.read_label([int(place) for place in organ.centre_3], (1, 1, 1)).item() == 1)
    return misses, of_middle, inside
