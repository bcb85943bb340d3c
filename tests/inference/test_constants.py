"""An encoder computes a constant image once: the same bits, in as many calls as there are other images and one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpcseg.inference import predict
from hpcseg.inference.constants import ConstantOnce, constants_once
from hpcseg.inference.predict import Predictor
from hpcseg.networks.fnet import Encoder
from hpcseg.training.model import new_network
from hpcseg.volumes.preprocess import Preprocessed
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.scans import read_grid
from hpcseg.volumes.store import LEVELS
from tests.inference.untrained import CPU, UNET, model


class Counted(nn.Module):
    """Twice the image, channels last; counts how often it is asked."""

    calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return (2 * image).expand(1, 3, *image.shape[2:]).contiguous(memory_format=torch.channels_last_3d)


class Uneven(Counted):
    """As well, but another number at one voxel."""

    def forward(self, image: Tensor) -> Tensor:
        features = super().forward(image)
        features[0, 0, 0, 0, 1] += 1
        return features


def full(value: float, edge: int = 4) -> Tensor:
    return torch.full((1, 1, edge, edge, edge), value)


@pytest.fixture
def mostly_air(image: Path) -> ScanVolume:
    """48 × 6 × 6 voxels, of which the last 38 planes lie below the window, at intensities that differ."""
    noise = np.random.default_rng(0).normal(0, 100, (48, 6, 6)).astype(np.float32)
    noise[10:] -= 2000
    whole = slice(0, 48), slice(0, 6), slice(0, 6)
    return ScanVolume.of(Preprocessed(noise, None, -1000.0, read_grid(image), whole), (-200.0, 400.0), LEVELS)


def test_equal_constants_are_computed_once_and_others_anew() -> None:
    counted, plain = Counted(), Counted()
    once = ConstantOnce(counted)
    one_differs = full(-1.0)
    one_differs[0, 0, 3, 3, 3] = -1.25
    low, high, large, unknown = full(-1.0), full(1.0), full(-1.0, 5), full(torch.nan)
    for image, calls in ((low, 1), (high, 2), (low, 2), (large, 3), (large, 3), (one_differs, 4), (one_differs, 5)):
        found, features = once(image), plain(image)
        assert torch.equal(found, features) and found.stride() == features.stride()
        assert counted.calls == calls
    once(unknown)
    once(unknown)
    assert counted.calls == 7


def test_an_answer_that_is_not_the_same_everywhere_is_computed_anew() -> None:
    image = full(-1.0)
    once, features = ConstantOnce(Uneven()), Uneven()(image)
    assert all(torch.equal(once(image), features) for _ in range(3))


def test_probabilities_have_the_bits_of_a_network_that_computes_all(
    mostly_air: ScanVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segmented() -> tuple[np.ndarray, list[int]]:
        predictor, calls = Predictor(model(tile=8), CPU), []
        for encoder in (module for module in predictor.network.modules() if isinstance(module, Encoder)):
            encoder.register_forward_hook(lambda module, *_: calls.append(module))
        found = np.concatenate(list(predictor.slabs(mostly_air)), axis=1)
        return found, [calls.count(module) for module in dict.fromkeys(calls)]

    found, calls = segmented()
    monkeypatch.setattr(predict, "constants_once", lambda _: None)
    whole, all_calls = segmented()
    np.testing.assert_array_equal(found, whole)
    assert found.std() > 1e-3
    assert all_calls == [7, 7, 7]  # the coarsest level first, which sees farthest
    assert calls == [6, 5, 4]  # once for the whole tiles, once for the last, which is shorter


def test_a_network_without_encoders_for_its_levels_stays_as_it_is() -> None:
    network = new_network(model(network=UNET).config, 1)
    before = list(network.modules())
    constants_once(network)
    assert list(network.modules()) == before
