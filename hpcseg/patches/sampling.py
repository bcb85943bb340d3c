"""Where training patches lie (paper 3.1.1, 3.3).

Sampling is counter-based: slot b of step t is a pure function of (seed, stream, t, b). There is no generator state to
save, any number of workers gives the same batches, and a resumed run continues exactly.

Positions are level-0 voxels, z y x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.patches.geometry import Lattice

Sampling = Literal["gaussian", "uniform", "organ"]
Centre = tuple[float, float, float]
WORD = 2**64 - 1


class Stream(IntEnum):
    """What a series of patches is for; streams of one seed are independent."""

    TRAINING = 0
    VALIDATION = 1
    AUTOENCODER = 2


class CaseView(Protocol):
    """What sampling has to know of a stored case."""

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels of level 0."""

    @property
    def foreground_classes(self) -> tuple[int, ...]:
        """Foreground classes of which the case has voxels, ascending."""

    @property
    def foreground_by_class(self) -> Mapping[int, NDArray[np.int32]]:
        """Voxels of each foreground class, (N, 3)."""


class Sample(NamedTuple):
    """One patch: which case, and the first corner of its target."""

    case_index: int
    origin_3: tuple[int, int, int]


class Places:
    """The volumes to draw from, as drawing wants them: listed once, however often is drawn.

    Attributes:
        shapes: (z, y, x) of each volume.
        foreground: each volume that has any, with the classes of which it has some, ascending.
        centres: of the organ in each volume, level-0 voxels counted from the volume's corner; None: not known.
    """

    def __init__(self, cases: Sequence[CaseView], centres: Sequence[Centre | None] = ()) -> None:
        self.shapes = tuple(case.shape_zyx for case in cases)
        classes = ((index, case.foreground_classes) for index, case in enumerate(cases))
        self.foreground = tuple((index, found) for index, found in classes if found)
        self.centres = tuple(centres)
        self._cases = tuple(cases)

    def voxels(self, case_index: int, class_index: int) -> NDArray[np.int32]:
        """Foreground voxels (N, 3) of one class of one volume; read when they are first asked for."""
        return self._cases[case_index].foreground_by_class[class_index]


def draw(seed: int, stream: int, step: int, slot: int) -> np.random.Generator:
    """Return the generator of one patch, the same on every call.

    Args:
        seed: any integer; only its lowest 64 bits count.
        stream: see `Stream`.
        step: minibatch, from 0.
        slot: patch of the minibatch, from 0.
    """
    key = np.array([seed & WORD, stream], np.uint64)
    counter = np.array([0, 0, step, slot], np.uint64)  # its low words count the numbers drawn
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def segmentation_sample(
    seed: int,
    stream: int,
    step: int,
    slot: int,
    *,
    batch: int,
    foreground_share: float,
    places: Places,
    patch: int,
    lattice: int,
    phase: int,
) -> Sample:
    """Place one patch of a segmentation minibatch.

    The first ceil(foreground_share · batch) slots are centred on a stored foreground voxel: of a case drawn uniformly
    among those that have any, then a class of it, then a voxel. The others are centred on any voxel of any case.

    Args:
        seed, stream, step, slot: see `draw`; slot is less than `batch`.
        batch: patches of a minibatch.
        foreground_share: from 0 to 1.
        places: volumes to draw from.
        patch: edge of the target.
        lattice, phase: the origin is moved to the nearest one that equals `phase` modulo `lattice`.

    Raises:
        BadInput: there is no case, or a foreground voxel is wanted and no case has any.
    """
    generator = draw(seed, stream, step, slot)
    if slot < foreground_slots(foreground_share, batch):
        case_index, centre_3 = _foreground_voxel(generator, places)
    else:
        case_index = _any_case(generator, places)
        centre_3 = _uniform_voxel(generator, places.shapes[case_index])
    return Sample(case_index, _target_origin(centre_3, patch, Lattice(lattice, phase)))


def autoencoder_sample(
    seed: int,
    stream: int,
    step: int,
    slot: int,
    *,
    places: Places,
    patch: int,
    lattice: int,
    phase: int,
    sampling: Sampling,
    sigma: float,
) -> Sample:
    """Place one patch of an autoencoder minibatch in a case drawn uniformly.

    Args:
        seed, stream, step, slot: see `draw`.
        places: volumes to draw from.
        patch: edge of the target.
        lattice, phase: the origin is moved to the nearest one that equals `phase` modulo `lattice`.
        sampling: "uniform": the centre is any voxel; "gaussian": drawn around the image centre, again while outside;
            "organ": the same around the organ's centre.
        sigma: of the Gaussian, in image sizes.

    Raises:
        BadInput: there is no case, or the centre of its organ is wanted and not known.
    """
    generator = draw(seed, stream, step, slot)
    case_index = _any_case(generator, places)
    shape_zyx = places.shapes[case_index]
    if sampling == "uniform":
        centre_3 = _uniform_voxel(generator, shape_zyx)
    else:
        around_3 = _organ_centre(places, case_index) if sampling == "organ" else _middle(shape_zyx)
        centre_3 = _gaussian_voxel(generator, shape_zyx, around_3, sigma)
    return Sample(case_index, _target_origin(centre_3, patch, Lattice(lattice, phase)))


def foreground_slots(foreground_share: float, batch: int) -> int:
    """Return how many patches of a minibatch are centred on foreground: the share, rounded up."""
    return math.ceil(foreground_share * batch - 1e-9)  # 0.07 · 100 is a little more than 7


def _any_case(generator: np.random.Generator, places: Places) -> int:
    if not places.shapes:
        raise BadInput("no volume to draw patches from: check the split (labelled, data.folds) and the store's cases")
    return int(generator.integers(len(places.shapes)))


def _foreground_voxel(generator: np.random.Generator, places: Places) -> tuple[int, tuple[int, int, int]]:
    if not places.foreground:
        raise BadInput(
            f"none of the {len(places.shapes)} volumes to draw from has a foreground voxel: check data.foreground, "
            "or set patches.foreground_share = 0"
        )
    case_index, classes = places.foreground[generator.integers(len(places.foreground))]
    voxels_N3 = places.voxels(case_index, classes[generator.integers(len(classes))])
    z, y, x = voxels_N3[generator.integers(len(voxels_N3))].tolist()
    return case_index, (z, y, x)


def _uniform_voxel(generator: np.random.Generator, shape_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = generator.integers(shape_zyx).tolist()
    return z, y, x


def _middle(shape_zyx: tuple[int, int, int]) -> Centre:
    z, y, x = shape_zyx
    return z / 2, y / 2, x / 2


def _organ_centre(places: Places, case_index: int) -> Centre:
    centre_3 = places.centres[case_index] if places.centres else None
    if centre_3 is None:
        raise BadInput("autoencoder.sampling = 'organ': the organ of a volume was not located")
    return centre_3


def _gaussian_voxel(
    generator: np.random.Generator, shape_zyx: tuple[int, int, int], around_3: Centre, sigma: float
) -> tuple[int, int, int]:
    """Draw each axis for itself: inside is a box, so this is what redrawing all three until inside gives."""
    axes = zip(shape_zyx, around_3, strict=True)
    z, y, x = (_gaussian_position(generator, size, around, sigma) for size, around in axes)
    return z, y, x


def _gaussian_position(generator: np.random.Generator, size: int, around: float, sigma: float) -> int:
    while True:
        position = math.floor(generator.normal(around, sigma * size))
        if 0 <= position < size:
            return position


def _target_origin(centre_3: tuple[int, int, int], patch: int, lattice: Lattice) -> tuple[int, int, int]:
    z, y, x = (position - patch // 2 for position in centre_3)
    return lattice.nearest((z, y, x))
