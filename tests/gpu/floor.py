"""The floor of a training step: the arithmetic it must do and the bytes it must move. Pure.

A stage takes at least as long as its operations at the rate of a large matrix product, and at least as long as its
bytes at the rate of a large copy; the larger of the two is its floor. Bytes: every input read once, every output
written once, in the types really used (convolutions' maps of `half` bytes, weights' gradients, norms' parameters and
losses float32). A multiply-add is two operations.

    python -m tests.gpu.floor           prints the table
    python -m tests.gpu.floor --write   puts it into docs/performance.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcseg.patches.geometry import ENCODER_CONVOLUTIONS, FovealGeometry

FLOAT, LABEL, CODE = 4, 8, 2  # bytes of a float32, a class index in a minibatch (int64), a stored intensity (int16)
NORM_FORWARD, NORM_BACKWARD = 3, 5  # passes over the maps when batch norm and ReLU are fused
ADAM_PASSES = 7  # weight, gradient and two moments read; weight and moments written
KINDS = (
    "gather",
    "convolution forward",
    "convolution input gradient",
    "convolution weight gradient",
    "norm + ReLU forward",
    "norm + ReLU backward",
    "merge",
    "classifier",
    "winners",
    "decoder",
    "loss",
    "Adam",
)


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches at best, per second: a matrix product's operations, a copy's bytes (read and written)."""

    operations: float
    bytes: float


@dataclass(frozen=True)
class Stage:
    """One piece of work of a training step.

    Attributes:
        kind: one of `KINDS`.
        name: what it is about: "level 0 cbr2".
        operations: multiplications and additions.
        bytes: moved at least.
    """

    kind: str
    name: str
    operations: float
    bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """The floor."""
        return max(self.operations / ceilings.operations, self.bytes / ceilings.bytes)

    def limit(self, ceilings: Ceilings) -> str:
        """Which of the two ceilings it is."""
        return "arithmetic" if self.operations / ceilings.operations > self.bytes / ceilings.bytes else "memory"


@dataclass(frozen=True)
class Layer:
    """A valid convolution of one block: `inputs` maps of `edge` voxels to `maps` maps, kernel edge `kernel`."""

    name: str
    inputs: int
    maps: int
    kernel: int
    edge: int

    @property
    def out(self) -> int:
        """Edge of its result."""
        return self.edge - self.kernel + 1

    @property
    def weights(self) -> int:
        """Their number; there is no bias."""
        return self.inputs * self.maps * self.kernel**3


@dataclass(frozen=True)
class Shape:
    """An F-Net and its patches.

    Attributes:
        geometry: patch, kernel, levels.
        maps: of each level, finest first.
        channels: of the logits, with the background.
        lattice: step of the target origins.
        half: bytes of an element of the convolutions' maps and of the images (2 under autocast, else 4).
    """

    geometry: FovealGeometry
    maps: tuple[int, ...]
    channels: int = 2
    lattice: int = 4
    half: int = 2

    def encoder(self, level: int) -> list[Layer]:
        """The three convolutions of a level."""
        kernel, edge, own = self.geometry.kernel, self.geometry.inputs[level], self.maps[level]
        return [
            Layer(f"level {level} cbr{1 + n}", own if n else 1, own, kernel, edge - n * (kernel - 1))
            for n in range(ENCODER_CONVOLUTIONS)
        ]

    def integration(self, level: int) -> Layer:
        """The convolution that brings a level to the next finer one."""
        below = self.maps[level + 1] if level + 1 < self.geometry.levels else 0
        name, kernel = f"level {level} integration", self.geometry.kernel
        return Layer(name, self.maps[level] + below, self.maps[level], kernel, self.geometry.features[level])

    @property
    def layers(self) -> list[Layer]:
        """All convolutions but the classifier."""
        levels = range(self.geometry.levels)
        return [layer for level in levels for layer in self.encoder(level)] + [
            self.integration(level) for level in levels[1:]
        ]

    @property
    def classifier_inputs(self) -> int:
        """Maps that the classifier sees."""
        return self.maps[0] + (self.maps[1] if self.geometry.levels > 1 else 0)

    @property
    def parameters(self) -> int:
        """Of the F-Net."""
        norms = sum(2 * layer.maps for layer in self.layers)
        return sum(layer.weights for layer in self.layers) + norms + (self.classifier_inputs + 1) * self.channels


def fnet_step(shape: Shape, batch: int) -> list[Stage]:
    """Forward, loss, backward and update of an F-Net, and the cutting of its minibatch from resident volumes."""
    geometry = shape.geometry
    boxes = sum(edge**3 for edge in geometry.inputs)
    target = geometry.patch**3
    read = CODE * sum(box_voxels(geometry, level, shape.lattice) for level in range(geometry.levels)) + target
    stages = [Stage("gather", "minibatch", 0, batch * (read + shape.half * boxes + LABEL * target))]
    for layer in shape.layers:
        stages += _block(layer, batch, shape.half, inner=layer.inputs > 1)
    for level in range(1, geometry.levels):
        stages += _merging(shape, level, batch)
    return [*stages, *_head(shape, batch), _adam("F-Net", shape.parameters)]


def autoencoder_step(
    shape: Shape, level: int, batch: int, winners: int = 5, kernel: int = 13, tied: bool = False
) -> list[Stage]:
    """One step of a level's winner-take-all autoencoder; `tied`: its convolutions are the F-Net's, which updates them.

    Its images are float32: they are what it has to give back.
    """
    layers, edge = shape.encoder(level), shape.geometry.inputs[level]
    image, code = batch * edge**3 * FLOAT, batch * layers[-1].maps * layers[-1].out ** 3 * shape.half
    stamps, weights = batch * layers[-1].maps * winners * kernel**3, layers[-1].maps * kernel**3 * FLOAT
    own = weights // FLOAT + 1 + sum(2 * layer.maps for layer in layers)
    name = f"level {level}"
    stages = [Stage("gather", name, 0, batch * CODE * box_voxels(shape.geometry, level, shape.lattice) + image)]
    for layer in layers:
        stages += _block(layer, batch, shape.half, inner=layer.inputs > 1)
    return [
        *stages,
        Stage("winners", f"{name} forward", 0, code),
        Stage("winners", f"{name} backward", 0, code),
        Stage("decoder", f"{name} forward", 2 * stamps, weights + image),
        Stage("decoder", f"{name} backward", 4 * stamps, 2 * weights + image),
        Stage("loss", f"{name} forward", 4 * batch * edge**3, 2 * image),
        Stage("loss", f"{name} backward", 3 * batch * edge**3, 3 * image),
        _adam(name, own if tied else own + sum(layer.weights for layer in layers)),
    ]


def multitask_step(shape: Shape, batch: int, autoencoder_batch: int, levels: int) -> list[Stage]:
    """One step of F-Net and autoencoders side by side (S-MTL)."""
    beside = [autoencoder_step(shape, level, autoencoder_batch, tied=True) for level in range(levels)]
    return fnet_step(shape, batch) + [stage for own in beside for stage in own]


def box_voxels(geometry: FovealGeometry, level: int, lattice: int) -> int:
    """Voxels that one box reads: from the coarsest stored level on which targets of that lattice begin on a voxel."""
    finer = max(level - (lattice.bit_length() - 1), 0)
    return int((geometry.inputs[level] << finer) ** 3)


def operations(stages: Iterable[Stage]) -> float:
    """Of all stages."""
    return sum(stage.operations for stage in stages)


def seconds(stages: Iterable[Stage], ceilings: Ceilings) -> float:
    """Floor of all stages, one after the other."""
    return sum(stage.seconds(ceilings) for stage in stages)


def by_kind(stages: Sequence[Stage]) -> dict[str, list[Stage]]:
    """Stages by kind, in the order of `KINDS`."""
    kinds = {kind: [stage for stage in stages if stage.kind == kind] for kind in KINDS}
    return {kind: own for kind, own in kinds.items() if own}


def _block(layer: Layer, batch: int, half: int, *, inner: bool) -> list[Stage]:
    """A CBR block forward and backward; the image's own gradient is not wanted (`inner` False)."""
    work = 2 * batch * layer.out**3 * layer.weights
    coming = batch * layer.inputs * layer.edge**3 * half
    going = batch * layer.maps * layer.out**3 * half
    elements = going // half
    weights = layer.weights * half
    backward = [Stage("convolution input gradient", layer.name, work, going + weights + coming)] if inner else []
    return [
        Stage("convolution forward", layer.name, work, coming + weights + going),
        *backward,
        Stage("convolution weight gradient", layer.name, work, coming + going + layer.weights * FLOAT),
        Stage("norm + ReLU forward", layer.name, 6 * elements, NORM_FORWARD * going),
        Stage("norm + ReLU backward", layer.name, 10 * elements, NORM_BACKWARD * going),
    ]


def _merging(shape: Shape, level: int, batch: int) -> list[Stage]:
    """Where the integrated maps of `level` join those of the next finer one."""
    edge, own, below = shape.geometry.features[level - 1], shape.maps[level - 1], shape.maps[level]
    fine = batch * own * edge**3 * shape.half
    spread = batch * below * edge**3 * shape.half
    coarse = batch * below * shape.integration(level).out ** 3 * shape.half
    moved = 2 * fine + spread + coarse
    name = f"level {level} into {level - 1}"
    return [Stage("merge", f"{name} forward", 0, moved), Stage("merge", f"{name} backward", spread, moved)]


def _head(shape: Shape, batch: int) -> list[Stage]:
    """Classifier (1×1×1, with bias) and Dice-CE."""
    voxels, inputs, channels = batch * shape.geometry.patch**3, shape.classifier_inputs, shape.channels
    work, maps, logits = 2 * voxels * inputs * channels, voxels * inputs * shape.half, voxels * channels * shape.half
    return [
        Stage("classifier", "forward", work, maps + logits),
        Stage("classifier", "input gradient", work, maps + logits),
        Stage("classifier", "weight gradient", work, maps + logits),
        Stage("loss", "forward", 10 * voxels * channels, logits + LABEL * voxels),
        Stage("loss", "backward", 10 * voxels * channels, 2 * logits + LABEL * voxels),
    ]


def _adam(name: str, parameters: int) -> Stage:
    return Stage("Adam", name, 14 * parameters, ADAM_PASSES * parameters * FLOAT)


PAPER = Shape(FovealGeometry(72, 5, 4), (32, 32, 32, 32))


if __name__ == "__main__":
    from tests.gpu import performance

    sys.exit(performance.main(sys.argv[1:]))
