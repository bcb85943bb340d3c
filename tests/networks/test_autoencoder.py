"""The autoencoder gives back its input's size, learns from its winners, and can be tied to an F-Net."""

from __future__ import annotations

import pytest
import torch

from hpcseg.config import AutoencoderConfig
from hpcseg.networks.autoencoder import CBRU, Stamps, WTAutoencoder
from hpcseg.networks.fnet import Encoder, FNet
from hpcseg.networks.losses import huber
from hpcseg.networks.winners import top_winners
from hpcseg.patches.geometry import FovealGeometry
from tests.networks.checks import dense_decode

DECODERS = pytest.mark.parametrize("decoder", ["transposed", "cbru"])


@DECODERS
@pytest.mark.parametrize("kernel, size", [(3, 9), (3, 14), (5, 17), (5, 22)])
def test_the_reconstruction_has_the_images_size(kernel, size, decoder):
    network = WTAutoencoder(kernel, 3, 0.01, AutoencoderConfig(winners=2, decoder=decoder))
    assert network(torch.randn(2, 1, size, size + 1, size + 2)).shape == (2, 1, size, size + 1, size + 2)


def test_the_papers_decoder_has_an_edge_of_13():
    network = WTAutoencoder(5, 4, 0.01, AutoencoderConfig(winners=5))
    assert network.decoder.weight.shape == (4, 1, 13, 13, 13)
    assert sum(parameter.numel() for parameter in network.decoder_parameters()) == 4 * 13**3 + 1


def test_the_reconstruction_is_the_transposed_convolution_of_the_winners():
    network = WTAutoencoder(3, 4, 1.0, AutoencoderConfig(winners=3))
    image = torch.randn(2, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    winners = top_winners(network.encoder(image), 3)
    assert isinstance(network.decoder, Stamps) and network.decoder.bias is not None
    expected = dense_decode(winners, network.decoder.weight, network.decoder.bias, (6, 6, 6))
    assert torch.allclose(network(image), expected, atol=1e-6)


def test_cbru_stretches_the_convolved_winners_to_the_image():
    network = WTAutoencoder(3, 2, 1.0, AutoencoderConfig(winners=1, decoder="cbru"))
    image = torch.randn(2, 1, 14, 14, 14, generator=torch.Generator().manual_seed(0))
    code = network.encoder(image)
    assert isinstance(network.decoder, CBRU)
    least = code.flatten(2).amax(dim=2).view(2, 2, 1, 1, 1)
    small = network.decoder.channel(network.decoder.cbr(code * (code >= least)))
    assert small.shape == (2, 1, 6, 6, 6)
    source = torch.arange(14) * 6 // 14
    expected = small[:, :, source][:, :, :, source][:, :, :, :, source]
    assert torch.allclose(network(image), expected, atol=1e-6)


@DECODERS
def test_lifetime_silences_the_weaker_samples_in_training(decoder):
    every, one = (
        WTAutoencoder(3, 1, 1.0, AutoencoderConfig(winners=2, decoder=decoder, lifetime=lifetime))
        for lifetime in (0.0, 0.25)
    )
    image = torch.randn(4, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    strongest = every.encoder(image).flatten(1).amax(dim=1).argmax()
    one.encoder.load_state_dict(
        WTAutoencoder(3, 1, 1.0, AutoencoderConfig(winners=2, decoder=decoder)).encoder.state_dict()
    )
    varies = one(image).flatten(1).std(dim=1) > 1e-6
    assert varies.nonzero().flatten().tolist() == [strongest]
    assert (every(image).flatten(1).std(dim=1) > 1e-6).all()


@pytest.mark.parametrize("decoder, share", [("transposed", 0.6), ("cbru", 0.9)])
def test_a_few_steps_lower_the_loss(decoder, share):
    network = WTAutoencoder(3, 4, 0.01, AutoencoderConfig(winners=5, decoder=decoder))
    image = torch.zeros(2, 1, 12, 12, 12)
    image[:, :, 4:8, 4:8, 4:8] = 2.0
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = huber(network(image), image, 1.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < share * losses[0]


def test_start_weights_are_a_function_of_the_generator_alone():
    first, second = (
        WTAutoencoder(3, 4, 0.01, AutoencoderConfig(winners=3), generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_pretrained_convolutions_load_into_the_fnets_encoder():
    autoencoder, network = WTAutoencoder(3, 4, 1.0, AutoencoderConfig(winners=3)), FNet(3, 2, (4, 4), 1, 0.01)
    network.encoder(1).load_state_dict(autoencoder.encoder.state_dict())
    assert torch.equal(network.encoder(1).cbr3.conv.weight, autoencoder.encoder.cbr3.conv.weight)


def test_a_tied_autoencoder_keeps_the_fnets_start_and_trains_its_convolutions():
    network = FNet(3, 2, (4, 4), 1, 0.01)
    before = network.encoder(0).cbr1.conv.weight.detach().clone()
    tied = WTAutoencoder(3, 4, 0.01, AutoencoderConfig(winners=3), encoder=network.encoder(0).twin())
    assert torch.equal(network.encoder(0).cbr1.conv.weight, before)
    size = FovealGeometry(6, 3, 2).inputs[0]
    image = torch.randn(2, 1, size, size, size, generator=torch.Generator().manual_seed(0))
    norms = {name: value.clone() for name, value in network.encoder(0).state_dict().items() if "norm" in name}
    huber(tied(image), image, 1.0).backward()
    assert network.encoder(0).cbr1.conv.weight.grad.abs().sum() > 0
    assert network.encoder(0).cbr1.norm.weight.grad is None
    assert all(torch.equal(network.encoder(0).state_dict()[name], value) for name, value in norms.items())


@DECODERS
def test_the_two_optimizers_of_a_tied_pair_share_out_every_parameter_once(decoder):
    network = FNet(3, 2, (4, 4), 1, 0.01)
    tied = WTAutoencoder(3, 4, 0.01, AutoencoderConfig(winners=3, decoder=decoder), encoder=network.encoder(0).twin())
    first = [*network.parameters(), *tied.encoder.norm_parameters()]
    second = [*tied.decoder_parameters()]
    everything = torch.nn.ModuleList([network, tied]).parameters()
    assert len({id(parameter) for parameter in (*first, *second)}) == len(first) + len(second)
    assert {id(parameter) for parameter in everything} == {id(parameter) for parameter in (*first, *second)}


def test_an_encoder_with_other_maps_is_refused():
    with pytest.raises(ValueError, match="maps"):
        WTAutoencoder(3, 8, 0.01, AutoencoderConfig(winners=3), encoder=Encoder(1, 4, 3))
