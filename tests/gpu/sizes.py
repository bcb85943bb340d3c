"""How large everything is that is measured: as in the paper, or so small that a CPU rehearses it in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from hpcseg.config import RunConfig
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.training.model import geometry_of
from tests.gpu.floor import Shape

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Decoder:
    """The sparse decoder's problem: batch, maps, edge of the code, edge of the kernel, winners of each map."""

    batch: int
    maps: int
    edge: int
    kernel: int
    winners: int = 5


@dataclass(frozen=True)
class Sizes:
    """
    Attributes:
        config: of the network and its training.
        matrix: edge of the matrices whose product is the ceiling of arithmetic.
        copied: bytes of the copy that is the ceiling of memory.
        volume_zyx, volumes: of the store.
        decoder: see `Decoder`.
        accuracy: batch and edge of the problems on which errors are measured.
        warm, timed, profiled: training steps of the real loop: before measuring, by the clock, under the profiler.
        in_a_row: training steps on minibatches that do not change.
        seeds, study_epochs: of the phantom study.
        patience_s: about how long one timing may take.
    """

    config: RunConfig
    matrix: int
    copied: int
    volume_zyx: Triple
    volumes: int
    decoder: Decoder
    accuracy: tuple[int, int]
    warm: int
    timed: int
    profiled: int
    in_a_row: int
    seeds: int
    study_epochs: int
    patience_s: float

    @property
    def geometry(self) -> FovealGeometry:
        """Of the network's patches."""
        geometry = geometry_of(self.config)
        assert isinstance(geometry, FovealGeometry)
        return geometry

    def shape(self, half: int = 2) -> Shape:
        """What the floor is computed from; `half`: bytes of the convolutions' maps."""
        return Shape(self.geometry, self.config.network.maps_per_level, 2, self.config.patches.lattice, half)


PAPER = Sizes(
    config=RunConfig(),
    matrix=8192,
    copied=4 << 30,
    volume_zyx=(300, 400, 400),
    volumes=4,
    decoder=Decoder(2, 32, 60, 13),
    accuracy=(2, 26),
    warm=40,
    timed=100,
    profiled=200,
    in_a_row=20,
    seeds=5,
    study_epochs=30,
    patience_s=0.25,
)
TINY = Sizes(
    config=RunConfig.model_validate(
        {
            "patches": {"size": 16},
            "network": {"levels": 2, "kernel": 3, "maps": 4},
            "training": {"batch": 2, "validation_steps": 1},
            "autoencoder": {"batch": 2},
            "multitask": {"batch": 2, "autoencoder_batch": 2, "levels": 1},
        }
    ),
    matrix=64,
    copied=1 << 16,
    volume_zyx=(40, 44, 48),
    volumes=2,
    decoder=Decoder(1, 4, 8, 7),
    accuracy=(1, 10),
    warm=2,
    timed=2,
    profiled=4,
    in_a_row=2,
    seeds=2,
    study_epochs=1,
    patience_s=0.002,
)
