"""The U-Net gives the target's logits for any box, sees its margin, and with a wide one does not mind the tile."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hpcseg.networks.losses import dice_ce
from hpcseg.networks.unet import UNet
from hpcseg.patches.geometry import PaddedGeometry

MAPS = (4, 6, 8, 10)


def _network(kernel=3, levels=3, classes=1, margin=4, gain=0.01, seed=0):
    return UNet(kernel, MAPS[:levels], classes, margin, gain, generator=torch.Generator().manual_seed(seed))


def _image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("patch, margin, classes", [(8, 4, 1), (7, 0, 3), (9, 3, 2)])
def test_logits_have_the_targets_edges_for_any_patch_and_margin(kernel, levels, patch, margin, classes):
    geometry = PaddedGeometry(patch, margin, levels)
    network = _network(kernel, levels, classes, margin)
    logits = network([_image(2, 1, *geometry.inputs * 3)])
    assert logits.shape == (2, classes + 1, patch, patch, patch)
    (logits * _image(*logits.shape, seed=1)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_maps_are_halved_level_by_level_and_widened_again():
    network = _network(levels=4, margin=0)
    edges = []
    for part in (*network.down, *network.merge[::-1]):
        part.register_forward_hook(lambda _, __, maps: edges.append(tuple(maps.shape[1:3])))
    network([_image(1, 1, 16, 24, 32)])
    assert edges == [(4, 16), (6, 8), (8, 4), (10, 2), (8, 4), (6, 8), (4, 16)]


def test_multiply_adds_are_those_of_the_layers():
    layers = [(1, 4, 27, 16), (4, 4, 27, 16), (4, 6, 27, 8), (6, 6, 27, 8)]  # inputs, maps, taps, edge: down
    layers += [(6, 4, 1, 16), (8, 4, 27, 16), (4, 4, 27, 16), (4, 2, 1, 8)]  # up: one tap reaches each voxel; last
    with FlopCounterMode(display=False) as counter:
        _network(levels=2)([_image(1, 1, 16, 16, 16)])
    assert counter.get_total_flops() == 2 * sum(k * m * taps * edge**3 for k, m, taps, edge in layers)


def _evaluating(margin):
    """A network whose batch norms shift, so that zero padding is not the image's own surroundings."""
    generator = torch.Generator().manual_seed(1)
    network = _network(levels=2, margin=margin, gain=1.0, seed=1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.uniform_(-0.5, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.eval()


@pytest.mark.parametrize("margin, agrees", [(12, True), (2, False)])
def test_tiles_agree_where_the_margin_is_as_wide_as_the_network_sees(margin, agrees):
    network, volume = _evaluating(margin), _image(40, 40, 40)
    large, small = PaddedGeometry(16, margin, 2), PaddedGeometry(6, margin, 2)

    def logits(geometry, origin):
        first = origin + geometry.origins[0]
        box = (slice(first, first + geometry.inputs[0]),) * 3
        return network([volume[box][None, None]])[0]

    with torch.inference_mode():
        whole, part = logits(large, 12)[:, 4:10, 4:10, 4:10], logits(small, 16)
    assert whole.std() > 1e-2
    assert ((whole - part).abs().max() < 1e-5 * whole.abs().max()) == agrees


def test_start_weights_are_a_function_of_the_generator_alone():
    first, second, other = _network(seed=5), _network(seed=5), _network(seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_a_few_steps_from_the_papers_small_weights_learn_a_threshold():
    network, image = _network(), _image(2, 1, 16, 16, 16)
    label = (image[:, 0, 4:-4, 4:-4, 4:-4] > 0).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = dice_ce(network([image]), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_images_of_several_resolutions_are_refused():
    with pytest.raises(ValueError, match="too many"):
        _network()([_image(1, 1, 8, 8, 8)] * 2)
