"""How large everything is that is measured: as in the paper, or so small that a CPU rehearses it in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hpcseg.patches.geometry import FovealGeometry
from tests.gpu import floor
from tests.gpu.floor import Shape

if TYPE_CHECKING:
    from hpcseg.config import RunConfig

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
        settings: of the configuration of a run, where they are not the paper's.
        layout, batch: of its network and minibatches; what needs no configuration does without pydantic.
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

    settings: Mapping[str, Any]
    layout: Shape
    batch: int
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

    @cached_property
    def config(self) -> RunConfig:
        """Of the network and its training."""
        from hpcseg.config import RunConfig

        return RunConfig.model_validate(self.settings)

    @property
    def geometry(self) -> FovealGeometry:
        """Of the network's patches."""
        return self.layout.geometry

    def shape(self, half: int = 2) -> Shape:
        """What the floor is computed from; `half`: bytes of the convolutions' maps."""
        return replace(self.layout, half=half)


PAPER = Sizes(
    settings={},
    layout=floor.PAPER,
    batch=8,
    matrix=8192,
    copied=4 << 30,
    volume_zyx=(300, 400, 400),
    volumes=4,
    decoder=Decoder(2, 32, 60, 13),
    accuracy=(2, 26),
    warm=45,
    timed=105,
    profiled=210,
    in_a_row=20,
    seeds=5,
    study_epochs=30,
    patience_s=0.25,
)
TINY = Sizes(
    settings={
        "patches": {"size": 16},
        "network": {"levels": 2, "kernel": 3, "maps": 4},
        "training": {"batch": 2, "validation_steps": 1},
        "autoencoder": {"batch": 2},
        "multitask": {"batch": 2, "autoencoder_batch": 2, "levels": 1},
    },
    layout=Shape(FovealGeometry(16, 3, 2), (4, 4)),
    batch=2,
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
