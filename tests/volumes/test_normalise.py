"""Windows and normalisation from histograms against numpy on the voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hpcseg.config import PreprocessingConfig
from hpcseg.errors import BadInput
from hpcseg.volumes.normalise import Normalisation, normalisation, percentile_window
from hpcseg.volumes.packing import pack
from hpcseg.volumes.store import Store

VOXELS = st.lists(st.integers(-1000, 3000), min_size=1, max_size=200).map(lambda values: np.array(values, np.float32))


def histogram(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(voxels, return_counts=True)


def applied(rule: Normalisation, voxels: np.ndarray) -> np.ndarray:
    return (np.clip(voxels, rule.lo, rule.hi) - rule.mean) / rule.std


@pytest.fixture(scope="module")
def store(tiny_dataset: Path, make_spec, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("intensities") / "store.h5"
    pack(make_spec(tiny_dataset), path)
    with Store(path) as opened:
        yield opened


@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (0.0, 100.0), (25.0, 50.0)])
def test_the_window_is_numpys_percentile_of_the_pooled_foreground(
    store: Store, percentiles: tuple[float, float]
) -> None:
    cases = [store.case(name) for name in ("case_001", "case_003", "case_004")]
    pooled = []
    for case in cases:
        codes = case.read(0, (0, 0, 0), case.shape_zyx)
        pooled.append(case.coding.decode(codes[case.read_label((0, 0, 0), case.shape_zyx) > 0]))
    expected = np.percentile(np.concatenate(pooled), percentiles, method="inverted_cdf")
    assert percentile_window(cases, percentiles) == tuple(expected.tolist())


def test_a_window_needs_foreground(store: Store) -> None:
    with pytest.raises(BadInput, match="no labelled case has a foreground voxel"):
        percentile_window([], (0.5, 99.5))


@given(voxels=VOXELS)
def test_percentile_normalisation_is_the_z_score_of_the_clipped_image(voxels: np.ndarray) -> None:
    rule = normalisation(PreprocessingConfig(intensity="percentile"), histogram(voxels), (-100.0, 250.0))
    assert (rule.lo, rule.hi) == (-100, 250)
    values = applied(rule, voxels.astype(np.float64))
    assert abs(values.mean()) < 1e-9
    assert rule.std > 0
    if np.clip(voxels, -100, 250).std() > 0:
        assert values.std() == pytest.approx(1)


@given(voxels=VOXELS)
def test_zscore_clips_to_the_images_own_percentiles(voxels: np.ndarray) -> None:
    config = PreprocessingConfig(intensity="zscore", percentiles=(10, 90))
    rule = normalisation(config, histogram(voxels), None)
    assert (rule.lo, rule.hi) == tuple(np.percentile(voxels, (10, 90), method="inverted_cdf").tolist())
    assert abs(applied(rule, voxels.astype(np.float64)).mean()) < 1e-9


def test_window_maps_its_ends_to_the_range() -> None:
    config = PreprocessingConfig(intensity="window")
    rule = normalisation(config, histogram(np.zeros(3, np.float32)), None)
    assert applied(rule, np.array([-1000, -155, 70, 295, 9999])) == pytest.approx([-3, -3, 0, 3, 3])


@pytest.mark.parametrize("value", [0.0, 40.0, 0.1, 1e6])
def test_a_constant_image_becomes_zero(value: float) -> None:
    voxels = np.full(1000, value, np.float32)
    rule = normalisation(PreprocessingConfig(intensity="zscore"), histogram(voxels), None)
    assert rule.std == 1
    assert np.abs(applied(rule, voxels.astype(np.float64))).max() < 1e-6


def test_impossible_normalisations_are_refused() -> None:
    counts = histogram(np.zeros(3, np.float32))
    with pytest.raises(BadInput, match="needs labelled cases"):
        normalisation(PreprocessingConfig(), counts, None)
    falling = {"window": (5, 5), "window_range": (1, -1), "percentiles": (99.5, 0.5), "pyramid_clip": (4, 2)}
    for limits in ({key: pair} for key, pair in falling.items()):
        with pytest.raises(ValidationError, match="of which the second is larger"):
            PreprocessingConfig.model_validate(limits)
