"""`python -m tests.compiled.paper_step ARCH`: training steps of the paper's networks, launched nowhere.

All that matters for compiling is the paper's (kernel 5, 32 maps, four levels, bfloat16); patches are small. Prints
{kernel: [launches, most registers, most bytes of local memory, most shared memory]}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from hpcseg import kernels
from hpcseg.config import RunConfig
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.convolution import Convolution, Plan
from hpcseg.networks.losses import reconstruction_error, segmentation_loss
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.plain import PlainLayout
from hpcseg.training.model import new_network
from hpcseg.training.precision import place
from tests.compiled.launches import Launch, launched_nowhere

PATCH, BATCH = 8, 2
CPU = torch.device("cpu")


def minibatch(config: RunConfig) -> tuple[list[Tensor], Tensor]:
    """Images in bfloat16 and labels, windowed by the gathering kernel."""
    geometry = FovealGeometry(PATCH, config.network.kernel, config.network.levels)
    layout = PlainLayout(BATCH, geometry, tuple(range(geometry.levels)), labelled=True, dtype=torch.bfloat16)
    buffer = torch.zeros(layout.capacity, dtype=torch.uint8)
    layout.parts.views(buffer)[0].fill_(1)
    batch = layout.decoded(buffer)
    assert batch.label_BDHW is not None
    return batch.images, batch.label_BDHW


def steps() -> None:
    """Forward and backward of the F-Net and of an autoencoder."""
    config = RunConfig()
    images, label_BDHW = minibatch(config)
    network = place(new_network(config, 1, torch.Generator().manual_seed(0)), CPU)
    with torch.autocast("cpu", torch.bfloat16):
        logits_BCDHW = network(images)
    segmentation_loss(config.training, logits_BCDHW, label_BDHW).backward()
    autoencoder = WTAutoencoder(config.network.kernel, config.network.maps_per_level[0], 0.01, config.autoencoder)
    image = images[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        reconstruction = place(autoencoder, CPU)(image)
    reconstruction_error(config.autoencoder, reconstruction, image).backward()


def summary(launches: Sequence[Launch]) -> dict[str, list[int]]:
    """See the module's docstring; machine code that was launched again is looked at once."""
    resources = {launch.machine_code: launch.resources() for launch in launches}
    found: dict[str, list[int]] = {}
    for launch in launches:
        before = found.get(launch.kernel, [0, 0, 0, 0])
        now = [1, *resources[launch.machine_code], launch.shared]
        found[launch.kernel] = [before[0] + 1, *(max(pair) for pair in zip(before[1:], now[1:], strict=True))]
    return found


if __name__ == "__main__":
    kernels.run_on = lambda device: True
    for way in ("triton", "triton wide"):
        Convolution.plan = Plan(way, way, "triton")
        with launched_nowhere(int(sys.argv[1])) as made:
            steps()
        print(json.dumps(summary(made)))
