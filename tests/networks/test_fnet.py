"""The F-Net has the published size, and says the same about a voxel from whatever tile it is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hpcseg.networks.fnet import CBR, Encoder, FNet, initialise
from hpcseg.networks.losses import dice_ce
from hpcseg.patches.geometry import FovealGeometry


def _images(geometry, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 1, size, size, size, generator=generator) for size in geometry.inputs]


def test_the_papers_network_has_1681090_parameters():
    network = FNet(5, 4, (32, 32, 32, 32), 1, 0.01)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_681_090


def test_the_papers_network_takes_146_giga_multiply_adds():
    images = [torch.empty(1, 1, size, size, size, device="meta") for size in FovealGeometry(72, 5, 4).inputs]
    with FlopCounterMode(display=False) as counter:
        FNet(5, 4, (32, 32, 32, 32), 1, 0.01).to("meta")(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(146.1, abs=0.05)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("patch, levels, classes", [(9, 1, 1), (7, 2, 3), (6, 3, 2), (8, 4, 1), (1, 4, 2), (5, 5, 3)])
def test_logits_have_the_targets_edges_and_gradients_reach_every_weight(kernel, increasing, patch, levels, classes):
    geometry = FovealGeometry(patch, kernel, levels)
    maps = tuple(range(2, 2 + levels)) if increasing else (3,) * levels
    network = FNet(kernel, levels, maps, classes, 0.01)
    logits = network(_images(geometry, 2))
    assert logits.shape == (2, classes + 1, patch, patch, patch)
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_features_have_the_edges_that_geometry_promises():
    geometry = FovealGeometry(7, 3, 3)
    network = FNet(3, 3, (2, 3, 4), 1, 0.01)
    for level, image in enumerate(_images(geometry, 1)):
        assert network.encoder(level)(image).shape[2:] == (geometry.features[level],) * 3


def _pyramid_boxes(volume, geometry, origin):
    """Input boxes of a target at `origin` (every axis): means over cubes of 2^l voxels, as in docs/fidelity.md."""
    boxes = []
    for level, (offset, size) in enumerate(zip(geometry.origins, geometry.inputs, strict=True)):
        first, factor = origin + offset, 1 << level
        cube = volume[(slice(first, first + size * factor),) * 3]
        mean = cube.reshape(size, factor, size, factor, size, factor).mean(axis=(1, 3, 5))
        boxes.append(torch.from_numpy(mean.astype(np.float32))[None, None])
    return boxes


@pytest.mark.parametrize("kernel, levels", [(3, 3), (3, 4), (5, 2), (5, 4)])
def test_a_voxel_gets_the_same_logits_from_any_tile(kernel, levels):
    generator = torch.Generator().manual_seed(1)
    network = FNet(kernel, levels, (4,) * levels, 1, 1.0, generator=generator)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.uniform_(-0.5, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
    network.eval()
    whole, large = 80, FovealGeometry(21, kernel, levels)
    volume = np.random.default_rng(2).normal(size=(180,) * 3)
    period = large.period
    with torch.inference_mode():
        logits = network(_pyramid_boxes(volume, large, whole))[0]
        for patch, shift in ((8, 0), (7, period), (11, period), (5, 2 * period)):
            if shift + patch > large.patch:
                continue
            small = FovealGeometry(patch, kernel, levels)
            window = (slice(None), *[slice(shift, shift + patch)] * 3)
            found = network(_pyramid_boxes(volume, small, whole + shift))[0]
            assert (found - logits[window]).abs().max() < 1e-5 * max(1.0, logits.abs().max().item())
        unaligned = FovealGeometry(5, kernel, levels)
        found = network(_pyramid_boxes(volume, unaligned, whole + 1))[0]
        assert (found - logits[:, 1:6, 1:6, 1:6]).abs().max() > 1e-3


def test_the_logits_depend_on_every_level_and_on_the_whole_surroundings():
    geometry = FovealGeometry(4, 3, 3)
    network = FNet(3, 3, (3, 3, 3), 1, 1.0).eval()
    images = [image.requires_grad_() for image in _images(geometry, 1)]
    network(images).sum().backward()
    for image in images:
        assert image.grad.abs().sum() > 0


def test_start_weights_are_xavier_normal_and_a_function_of_the_generator_alone():
    torch.manual_seed(0)
    first = FNet(3, 2, (16, 16), 1, 0.01, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    second = FNet(3, 2, (16, 16), 1, 0.01, generator=torch.Generator().manual_seed(7))
    other = FNet(3, 2, (16, 16), 1, 0.01, generator=torch.Generator().manual_seed(8))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    weight = first.encoder(0).cbr2.conv.weight
    assert weight.std().item() == pytest.approx(0.01 * math.sqrt(2 / (2 * 16 * 27)), rel=0.05)
    assert first.classifier.bias is not None and torch.equal(first.classifier.bias, torch.zeros(2))


def test_initialise_reaches_transposed_convolutions():
    decoder = nn.ConvTranspose3d(4, 1, 7)
    initialise(decoder, 0.5, torch.Generator().manual_seed(0))
    assert decoder.weight.std().item() == pytest.approx(0.5 * math.sqrt(2 / (5 * 343)), rel=0.1)
    assert decoder.bias.item() == 0


def test_a_twin_shares_convolutions_but_not_batch_norms():
    encoder = Encoder(1, 4, 3)
    twin = encoder.twin()
    for own, other in zip(encoder.blocks, twin.blocks, strict=True):
        assert own.conv is other.conv
        assert own.norm is not other.norm
    both = nn.ModuleList([encoder, twin])
    shared = sum(block.conv.weight.numel() for block in encoder.blocks)
    assert sum(parameter.numel() for parameter in both.parameters()) == shared + 2 * 3 * 2 * 4
    assert len(list(twin.norm_parameters())) == 6


def test_state_names_of_encoders_correspond():
    network = FNet(3, 2, (4, 4), 1, 0.01)
    names = set(network.encoder(1).state_dict())
    assert names == set(Encoder(1, 4, 3).state_dict())
    assert "cbr2.conv.weight" in names
    assert "encoders.1.cbr2.conv.weight" in network.state_dict()


def test_a_block_is_valid_convolution_batch_norm_relu():
    block = CBR(2, 3, 3)
    image = torch.randn(2, 2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = block.norm(nn.functional.conv3d(image, block.conv.weight)).clamp_min(0)
    assert torch.allclose(block(image), expected, atol=1e-6)
    assert expected.shape == (2, 3, 3, 4, 5)


def test_batch_norm_keeps_float32_statistics_under_bfloat16():
    image = torch.randn(2, 1, 10, 10, 10, generator=torch.Generator().manual_seed(0))
    exact, rounded = (FNet(3, 1, (8,), 1, 0.01).encoder(0) for _ in range(2))
    expected = exact(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rounded(image)
    for own, other in zip(exact.blocks, rounded.blocks, strict=True):
        mine, others = own.norm.running_var, other.norm.running_var
        assert mine is not None and others is not None and others.dtype == torch.float32
        assert torch.allclose(mine, others, rtol=1e-3)
    assert (found.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_a_few_steps_learn_a_threshold():
    geometry = FovealGeometry(6, 3, 2)
    network = FNet(3, 2, (4, 4), 1, 0.01)
    images = _images(geometry, 2)
    inner = slice(-geometry.origins[0], -geometry.origins[0] + 6)
    label = (images[0][:, 0, inner, inner, inner] > 0).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = dice_ce(network(images), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_wrong_numbers_of_levels_are_refused():
    with pytest.raises(ValueError, match="maps"):
        FNet(3, 3, (4, 4), 1, 0.01)
    with pytest.raises(ValueError, match="images"):
        FNet(3, 2, (4, 4), 1, 0.01)(_images(FovealGeometry(4, 3, 1), 1))
