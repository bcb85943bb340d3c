"""A minibatch on its way to a network: drawn, read as codes into one buffer, copied to the device, decoded there.

    Drawn ── Layout.read ──▶ CodedBatch ── to(device) ──▶ Batch      volumes in a store: one copy to the device
    Drawn ── Layout.plan ──▶ ResidentBatch ── to(device) ──▶ Batch   volumes on the device: nothing is copied

`Layout` says what lies where in the buffer: boxes as they are (`plain`), or those that transformed patches show
(`transformed`). Whichever it is, `Batch` is what is decoded, the same to the last bit wherever volumes lie.

Shapes: B batch, D edge of a level's input box, P edge of the target; axes are z, y, x. `table_B6`: see `codes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from hpcseg.patches.augmentation import Transform
from hpcseg.patches.buffers import new_buffer
from hpcseg.patches.geometry import PatchGeometry, Triple
from hpcseg.patches.intensity import Look
from hpcseg.patches.resident import ResidentCase
from hpcseg.patches.source import Source

Plan = TypeVar("Plan")


@dataclass
class Batch:
    """One minibatch, decoded.

    Attributes:
        images: (B, 1, D, D, D) float32, bfloat16 or float16 per requested level, in the order requested; normalised.
        label_BDHW: (B, P, P, P) int64 class indices, 0 outside the volume; None for autoencoders.
    """

    images: list[Tensor]
    label_BDHW: Tensor | None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        label_BDHW = None if self.label_BDHW is None else self.label_BDHW.to(device)
        return Batch([image.to(device) for image in self.images], label_BDHW)


@dataclass(frozen=True)
class Drawn:
    """Where the patches of a minibatch lie, before any voxel was read.

    Attributes:
        sources: (B) the volume of each.
        origins: (B) first corner of each target, level-0 voxels.
        table_B6: how each is decoded; in the host's memory.
        transforms: (B) through which each is seen; empty for none.
        looks: (B) how the intensities of each are changed; empty: not at all.
    """

    sources: Sequence[Source]
    origins: Sequence[Triple]
    table_B6: Tensor
    transforms: Sequence[Transform] = ()
    looks: Sequence[Look] = ()

    @property
    def residents(self) -> list[ResidentCase]:
        """(B) the volumes on the device that trains; all sources have one."""
        return [source.resident for source in self.sources if source.resident is not None]


@dataclass(frozen=True)
class Layout(ABC, Generic[Plan]):
    """What the patches of a minibatch consist of, and how their codes lie in one buffer.

    Attributes:
        batch: patches.
        geometry: sizes and places of the boxes.
        levels: which boxes, in the order wanted.
        labelled: whether there are labels.
        dtype: of the images that a network is given.
    """

    batch: int
    geometry: PatchGeometry
    levels: tuple[int, ...]
    labelled: bool
    dtype: torch.dtype

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Bytes of the largest minibatch."""

    def buffer(self, *, pinned: bool = False) -> Tensor:
        """Allocate memory for any minibatch; see `buffers.new_buffer`."""
        return new_buffer(self.capacity, pinned=pinned)

    @abstractmethod
    def plan(self, drawn: Drawn) -> Plan:
        """Find what has to be read for a minibatch."""

    @abstractmethod
    def read(self, plan: Plan, buffer: Tensor) -> Tensor:
        """Read codes and labels from stores into a buffer, and return its used part."""

    @abstractmethod
    def cut(self, plan: Plan) -> Batch:
        """Read the same from resident volumes, and decode it, on their device."""

    @abstractmethod
    def decoded(self, buffer: Tensor, looks: Sequence[Look] = ()) -> Batch:
        """Make a network's input of what was read, on the device where it lies; `looks` are those that were drawn."""


class RawBatch(Protocol):
    """A minibatch that is not decoded yet: a `CodedBatch` or a `ResidentBatch`."""

    def to(self, device: torch.device | str) -> Batch:
        """Decode on a device."""


@dataclass(frozen=True)
class CodedBatch:
    """A minibatch of codes in one buffer in the host's memory; `looks`: see `Drawn`."""

    layout: Layout[Any]
    buffer: Tensor
    looks: Sequence[Look] = ()

    def to(self, device: torch.device | str) -> Batch:
        """Decode on a device, after one copy; from pinned memory without waiting. Nothing refers to the buffer then."""
        return self.layout.decoded(self.buffer.to(device, non_blocking=True), self.looks)


@dataclass(frozen=True)
class ResidentBatch:
    """A minibatch yet to be cut from resident volumes."""

    layout: Layout[Any]
    plan: Any

    def to(self, device: torch.device | str) -> Batch:
        """Cut and decode where the volumes are, which should be `device`."""
        return self.layout.cut(self.plan).to(device)
