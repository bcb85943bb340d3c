"""Where training patches lie (paper 3.1.1, 3.3).

Sampling is counter-based: slot b of step t is a pure function of (seed, stream, t, b). There is no generator state to
save, any number of workers gives the same batches, and a resumed run continues exactly.

Positions are level-0 voxels, z y x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hpcseg.config import AugmentationConfig
from hpcseg.errors import BadInput
from hpcseg.patches.geometry import Bounds, Lattice, Triple, lattice_bounds

Sampling = Literal["gaussian", "uniform", "organ"]
Centre = tuple[float, float, float]
WORD = 2**64 - 1
TRIES = 64  # of a place that `Place.inside` allows


class Stream(IntEnum):
    """What a series of patches is for; streams of one seed are independent."""

    TRAINING = 0
    VALIDATION = 1
    AUTOENCODER = 2
    PSEUDO_LABELS = 3


class Use(IntEnum):
    """What the random numbers of one patch are for: added to its stream, so that none are shared."""

    PLACE = 0
    TRANSFORM = 1 << 16
    INTENSITY = 2 << 16
    BLOCKS = 3 << 16
    CUBOID = 4 << 16


@dataclass(frozen=True)
class Draw:
    """How a series of minibatches is drawn: with a step, all that a minibatch depends on besides the volumes.

    Attributes:
        batch: patches of a minibatch.
        seed: of the run; any integer, of which the lowest 64 bits count.
        stream: what the series is for, see `Stream`.
        lattice: step of the target origins, level-0 voxels.
        augmentation: random changes of the patches; None for none.
        part: the slots of each minibatch that are wanted here; others are read by other ranks.
        dtype: of the images: float32, or bfloat16 or float16, which are the float32 values rounded once.
    """

    batch: int
    seed: int
    stream: int
    lattice: int = 1
    augmentation: AugmentationConfig | None = None
    part: slice = field(default_factory=lambda: slice(None))
    dtype: torch.dtype = torch.float32

    def generator(self, step: int, slot: int, use: Use = Use.PLACE) -> np.random.Generator:
        """Return the generator of one patch, the same on every call.

        Args:
            step: minibatch, from 0.
            slot: patch of the minibatch, from 0.
            use: what the numbers are for.
        """
        key = np.array([self.seed & WORD, self.stream + use], np.uint64)
        counter = np.array([0, 0, step, slot], np.uint64)  # its low words count the numbers drawn
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


class CaseView(Protocol):
    """What sampling has to know of a stored case."""

    @property
    def shape_zyx(self) -> Triple:
        """Voxels of level 0."""

    @property
    def foreground_classes(self) -> tuple[int, ...]:
        """Foreground classes of which the case has voxels, ascending."""

    @property
    def foreground_by_class(self) -> Mapping[int, NDArray[np.int32]]:
        """Voxels of each foreground class, (N, 3)."""

    @property
    def known_voxels(self) -> NDArray[np.int32] | None:
        """Voxels (N, 3) whose class is known; None where all are."""


class Sample(NamedTuple):
    """One patch: which case, and the first corner of its target."""

    case_index: int
    origin_3: Triple


class Place(NamedTuple):
    """Where the target patches of autoencoders lie.

    Attributes:
        sampling: "uniform": the centre is any voxel; "gaussian": drawn around the image centre, again while outside;
            "organ": the same around the organ's centre.
        sigma: of the Gaussian, in image sizes.
        inside: least share of a target patch within the volume, see `lattice_bounds`; 0: only its centre has to be.
    """

    sampling: Sampling
    sigma: float = 0.25
    inside: float = 0.0


class Targets:
    """The targets to draw from, as drawing wants them: listed once, however often is drawn.

    Args:
        cases: volumes in which their centres lie.
        patch: edge of a target.
        lattice: on which its origin lies; the nearest one is taken.
        centres: of the organ in each volume, level-0 voxels counted from the volume's corner; None: not known.

    Attributes:
        shapes: (z, y, x) of each volume.
        foreground: each volume that has any, with the classes of which it has some, ascending.
    """

    def __init__(
        self, cases: Sequence[CaseView], patch: int, lattice: Lattice, centres: Sequence[Centre | None] = ()
    ) -> None:
        self.shapes = tuple(case.shape_zyx for case in cases)
        classes = ((index, case.foreground_classes) for index, case in enumerate(cases))
        self.foreground = tuple((index, found) for index, found in classes if found)
        self._cases, self._patch, self._lattice, self._centres = tuple(cases), patch, lattice, tuple(centres)
        self._known: dict[int, NDArray[np.int32] | None] = {}

    def voxels(self, case_index: int, class_index: int) -> NDArray[np.int32]:
        """Foreground voxels (N, 3) of one class of one volume; read when they are first asked for."""
        return self._cases[case_index].foreground_by_class[class_index]

    def known(self, case_index: int) -> NDArray[np.int32] | None:
        """Voxels (N, 3) of one volume whose class is known; None where all are."""
        if case_index not in self._known:
            self._known[case_index] = self._cases[case_index].known_voxels
        return self._known[case_index]

    def organ(self, case_index: int) -> Centre:
        """Centre of a volume's organ; refused where it is not known."""
        centre_3 = self._centres[case_index] if self._centres else None
        if centre_3 is None:
            raise BadInput("autoencoder.sampling = 'organ': the organ of a volume was not located")
        return centre_3

    def at(self, case_index: int, centre_3: Triple) -> Sample:
        """The target that is centred on a voxel, moved to the lattice."""
        z, y, x = (position - self._patch // 2 for position in centre_3)
        return Sample(case_index, self._lattice.nearest((z, y, x)))

    def bounds(self, case_index: int, inside: float) -> tuple[Bounds, Bounds, Bounds]:
        """First and last origin, along each axis, of targets of which so much lies within a volume."""
        return lattice_bounds(self.shapes[case_index], self._patch, self._lattice, inside)


def segmentation_sample(targets: Targets, draw: Draw, step: int, slot: int, *, foreground_share: float) -> Sample:
    """Place one patch of a segmentation minibatch.

    The first ceil(foreground_share · batch) slots are centred on a stored foreground voxel: of a case drawn uniformly
    among those that have any, then a class of it, then a voxel. The others are centred on any voxel of any case; where
    its label leaves voxels out, on one of the stored others.

    Args:
        targets: to draw from.
        draw: see there for `step` and `slot`, which is less than `draw.batch`.
        foreground_share: from 0 to 1.

    Raises:
        BadInput: there is no case, or a foreground voxel is wanted and no case has any.
    """
    generator = draw.generator(step, slot)
    if slot < foreground_slots(foreground_share, draw.batch):
        return targets.at(*_foreground_voxel(generator, targets))
    case_index = _any_case(generator, targets)
    known_N3 = targets.known(case_index)
    if known_N3 is not None:
        return targets.at(case_index, _one_of(generator, known_N3))
    return targets.at(case_index, _uniform_voxel(generator, targets.shapes[case_index]))


def autoencoder_sample(targets: Targets, draw: Draw, step: int, slot: int, *, place: Place) -> Sample:
    """Place one patch of an autoencoder minibatch in a case drawn uniformly.

    With `place.inside` the centre is drawn as without it, up to `TRIES` times until the target lies far enough within
    the volume; then the last one is moved inwards, as little as it needs.

    Args:
        targets: to draw from.
        draw: see there for `step` and `slot`.
        place: how.

    Raises:
        BadInput: there is no case, or the centre of its organ is wanted and not known.
    """
    generator = draw.generator(step, slot)
    case_index = _any_case(generator, targets)
    if place.inside == 0:
        return _drawn(generator, targets, case_index, place)
    bounds = targets.bounds(case_index, place.inside)
    for _ in range(TRIES):
        sample = _drawn(generator, targets, case_index, place)
        z, y, x = (min(max(o, low), high) for o, (low, high) in zip(sample.origin_3, bounds, strict=True))
        if (z, y, x) == sample.origin_3:
            return sample
    return Sample(case_index, (z, y, x))


def _drawn(generator: np.random.Generator, targets: Targets, case_index: int, place: Place) -> Sample:
    shape_zyx = targets.shapes[case_index]
    if place.sampling == "uniform":
        return targets.at(case_index, _uniform_voxel(generator, shape_zyx))
    around_3 = targets.organ(case_index) if place.sampling == "organ" else _middle(shape_zyx)
    return targets.at(case_index, _gaussian_voxel(generator, shape_zyx, around_3, place.sigma))


def foreground_slots(foreground_share: float, batch: int) -> int:
    """Return how many patches of a minibatch are centred on foreground: the share, rounded up."""
    return math.ceil(foreground_share * batch - 1e-9)  # 0.07 · 100 is a little more than 7


def _any_case(generator: np.random.Generator, targets: Targets) -> int:
    if not targets.shapes:
        raise BadInput("no volume to draw patches from: check the split (labelled, data.folds) and the store's cases")
    return int(generator.integers(len(targets.shapes)))


def _foreground_voxel(generator: np.random.Generator, targets: Targets) -> tuple[int, Triple]:
    if not targets.foreground:
        raise BadInput(
            f"none of the {len(targets.shapes)} volumes to draw from has a foreground voxel: check data.foreground, "
            "or set patches.foreground_share = 0"
        )
    case_index, classes = targets.foreground[generator.integers(len(targets.foreground))]
    voxels_N3 = targets.voxels(case_index, classes[generator.integers(len(classes))])
    return case_index, _one_of(generator, voxels_N3)


def _one_of(generator: np.random.Generator, voxels_N3: NDArray[np.int32]) -> Triple:
    z, y, x = voxels_N3[generator.integers(len(voxels_N3))].tolist()
    return z, y, x


def _uniform_voxel(generator: np.random.Generator, shape_zyx: Triple) -> Triple:
    z, y, x = generator.integers(shape_zyx).tolist()
    return z, y, x


def _middle(shape_zyx: Triple) -> Centre:
    z, y, x = shape_zyx
    return z / 2, y / 2, x / 2


def _gaussian_voxel(generator: np.random.Generator, shape_zyx: Triple, around_3: Centre, sigma: float) -> Triple:
    """Draw each axis for itself: inside is a box, so this is what redrawing all three until inside gives."""
    axes = zip(shape_zyx, around_3, strict=True)
    z, y, x = (_gaussian_position(generator, size, around, sigma) for size, around in axes)
    return z, y, x


def _gaussian_position(generator: np.random.Generator, size: int, around: float, sigma: float) -> int:
    while True:
        position = math.floor(generator.normal(around, sigma * size))
        if 0 <= position < size:
            return position
