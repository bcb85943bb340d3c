"""Which keys a first study of a dataset should set: rules from facts to choices, each with its reason. Pure.

docs/configuration.md has the rules as a table. What they lead to on MR crops of the hippocampus is what
sweeps/hippocampus.toml sets; elsewhere they are a start, chosen on no scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hpcseg.errors import BadInput
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.spec import Spacing
from hpcseg.study.measured import DatasetFacts
from hpcseg.text import counted
from hpcseg.volumes.folds import split_cases

ISOTROPIC = 1.5  # ratio of the largest to the smallest spacing up to which all axes get the largest
FLATTEST = 3.0  # the same, of what is kept apart
_PAIRED = re.compile(
    r"hippocamp|amygdal|kidney|renal|lung|breast|parotid|orbit|\beye|\bhip\b|knee|femur|brain|ventricle", re.I
)
_SIDES = [re.compile(rf"(^|[\W_])({side})([\W_]|$)", re.I) for side in ("left|l|lt", "right|r|rt")]


class Choice(NamedTuple):
    """A key, its value, and the reason that stands beside it in the sweep file."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Scale:
    """How large a network is to be.

    Attributes:
        name: of the machine, in words.
        least_gib: memory of a GPU from which on it is chosen.
        patch: largest edge of a target patch, voxels.
        organ: edge of the largest label, of a ball of its volume, above which volumes are made coarser, voxels.
        detail: the same of the smallest label, below which they are not, voxels.
    """

    name: str
    least_gib: float
    patch: int
    kernel: int
    maps: int
    batch: int
    epochs: int
    learning_rate: float
    organ: float
    detail: float


SCALES = (  # the last one whose memory is there; the first is for CPUs
    Scale("a CPU", -1.0, 32, 3, 16, 4, 100, 3e-3, 45.0, 6.0),
    Scale("a small GPU", 0.0, 48, 3, 16, 4, 300, 3e-3, 90.0, 8.0),
    Scale("a GPU of 10 GiB or more", 10.0, 72, 5, 32, 8, 500, 1e-3, 130.0, 10.0),
)


@dataclass(frozen=True)
class Subsets:
    """Numbers of labelled cases and folds of a first study; those of self-training are of cases that leave others."""

    labelled: tuple[int | str, ...]
    with_unlabelled: tuple[int | str, ...]
    folds: int


def choose(facts: DatasetFacts) -> list[Choice]:
    """Every key of the `[run]` table of a first study, section by section.

    Raises:
        BadInput: so few groups of cases that nothing is left to measure by.
    """
    scale = scale_of(facts)
    spacing, why = choose_spacing(facts, scale)
    shape = [n * own / now for n, own, now in zip(facts.shape_zyx, facts.spacing_zyx, spacing, strict=True)]
    return [
        *_data(facts),
        Choice("preprocessing.spacing", spacing[0] if len({*spacing}) == 1 else list(spacing), why),
        _intensity(facts),
        *_patches(facts, scale, shape),
        *_training(scale),
        *_autoencoders(scale),
        Choice("inference.nsd_mm", _tolerance(facts, spacing), "a twentieth of the largest label across; 5 mm at most"),
    ]


def scale_of(facts: DatasetFacts) -> Scale:
    """The scale for the machine."""
    memory = -1.0 if facts.gpu_gib is None else facts.gpu_gib
    return [scale for scale in SCALES if scale.least_gib <= memory][-1]


def choose_subsets(facts: DatasetFacts) -> Subsets:
    """Folds, and nested numbers of labelled cases that every fold has.

    Raises:
        BadInput: fewer than two groups of cases.
    """
    count = len({*facts.groups.values()})
    if count < 2:
        raise BadInput(f"{facts.name}: all labelled cases are of one patient (data.groups): none is left to measure by")
    folds = min(5, count)
    splits = [split_cases(facts.groups, folds=folds, fold=n, labelled="all", seed=0) for n in range(folds)]
    most = min(len(split.labelled) for split in splits)
    few = [n for n in (2, 4, 8, 16) if n < most] or [1] * (most > 1)
    return Subsets((*few, "all"), (*few, "all") if facts.unlabelled else tuple(few), folds)


def choose_spacing(facts: DatasetFacts, scale: Scale) -> tuple[Spacing, str]:
    """Spacing of the stored volumes, z, y, x in mm, and why."""
    across = sorted(_across(ml) for ml in facts.label_ml.values())
    coarse = max(min(across[-1] / scale.organ, across[0] / scale.detail), 0.0)
    wanted = [max(own, coarse) for own in facts.spacing_zyx]
    native = " × ".join(f"{size:.3g}" for size in facts.spacing_zyx)
    why = f"the scans' median is {native} mm"
    if max(wanted) > max(facts.spacing_zyx):
        why += f"; coarser, so that a label of {across[-1]:.3g} mm across fits the patches of {scale.name}"
    if max(wanted) <= ISOTROPIC * min(wanted):
        wanted = [max(wanted)] * 3
        why += "; isotropic, the largest of the three (paper 3.2.1)"
    else:
        finest = min(max(wanted) / FLATTEST, across[0] / scale.detail)
        wanted = [max(size, finest) for size in wanted]
        why += "; slices stay as thick as they are, for isotropic voxels would blur the plane"
        why += f" ({FLATTEST:g} times finer at most: patches are cubes of voxels)" if min(wanted) == finest else ""
    z, y, x = (float(f"{size:.3g}") for size in wanted)
    return (z, y, x), why


def _data(facts: DatasetFacts) -> Iterator[Choice]:
    yield Choice("data.dataset", facts.name, "the folder below --data")
    names = ", ".join(f"{value} {name}" for value, name in facts.labels.items())
    values = [*facts.labels]
    if len(values) > 1:
        yield Choice("data.foreground", [[v] for v in values], f"a class each: {names}; {values}: all of them as one")
    else:
        yield Choice("data.foreground", values, names)
    yield Choice("data.groups", facts.groups_key, facts.groups_reason)
    folds, cases, groups = choose_subsets(facts).folds, len(facts.groups), len({*facts.groups.values()})
    of_patients = "" if cases == groups else f" of {counted(groups, 'patient')}"
    yield Choice("data.folds", folds, f"{counted(cases, 'labelled case')}{of_patients}")
    if facts.test:
        yield Choice("data.test", facts.name, f"{counted(facts.test, 'labelled scan')} set aside; they choose nothing")
    if facts.unlabelled:
        why = f"{counted(facts.unlabelled, 'scan')} without a label join the unlabelled ones"
        yield Choice("data.unlabelled_ts", True, why)


def _intensity(facts: DatasetFacts) -> Choice:
    low, high = facts.foreground_ends
    if facts.is_ct:
        why = f"a CT's HU are a scale: clipped at the labelled voxels' ends (about {low:.0f} and {high:.0f} HU)"
        return Choice("preprocessing.intensity", "percentile", why)
    return Choice(
        "preprocessing.intensity", "zscore", "MR has no common scale: each scan by its own mean and deviation"
    )


def _patches(facts: DatasetFacts, scale: Scale, shape: list[float]) -> Iterator[Choice]:
    """Patches, their augmentation and the network that sees them."""
    shortest, longest = min(shape), max(shape)
    size = min(scale.patch, max(16, 8 * round(0.7 * shortest / 8)))
    levels = next((n for n in (2, 3) if FovealGeometry(size, scale.kernel, n).reach >= longest), 4)
    share = 0.3 if facts.foreground_share >= 0.2 else 0.5 if facts.foreground_share >= 0.002 else 0.7
    voxels = " × ".join(f"{n:.0f}" for n in shape)
    yield Choice("patches.size", size, f"scans are {voxels} voxels; at most {scale.patch} for {scale.name}")
    yield Choice("patches.foreground_share", share, f"labels are {facts.foreground_share:.2g} of a scan")
    yield Choice(
        "augmentation.enabled", True, "the recipe for few labels (docs/fidelity.md), as sweeps/hippocampus.toml"
    )
    yield Choice("augmentation.translation", float(round(size / 12)), "a twelfth of a patch")
    named = " ".join((facts.name, *facts.labels.values()))
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name) for name in facts.labels.values()]  # LeftKidney
    sided = all(any(map(side.search, words)) for side in _SIDES)
    if _PAIRED.search(named) and not sided:
        yield Choice("augmentation.mirror", ["x"], f"by its name ({_PAIRED.search(named)[0]}) it is on both sides")  # type: ignore[index]
    else:
        why = (
            "labels tell left from right"
            if sided
            else 'most organs have a side; ["x"] where yours is the same mirrored'
        )
        yield Choice("augmentation.mirror", [], why)
    points = round(size / 3, 1)
    yield Choice("augmentation.elastic", math.floor(3.75 * points) / 10, "organs bend; no more, so that nothing folds")
    yield Choice("augmentation.elastic_spacing", points, "a third of a patch")
    varied = not facts.is_ct and facts.foreground_spread > 2
    why = f"labels are {facts.foreground_spread:.1f} standard deviations bright or dark from scan to scan: "
    why = "a CT's HU are a scale: changed a little" if facts.is_ct else why + ("strongly" if varied else "a little")
    keys = ("brightness", "contrast", "gamma", "noise", "blur", "intensity_share", "curve")
    strengths = (0.5, 0.4, 0.4, 0.15, 0.8, 0.3, 0.5) if varied else (0.15, 0.1, 0.15, 0.1, 0.5, 0.15, 0.0)
    for key, value in zip(keys, strengths, strict=True):
        yield Choice(f"augmentation.{key}", value, why)
        why = ""
    seen = FovealGeometry(size, scale.kernel, levels).reach
    yield Choice("network.levels", levels, f"the coarsest sees {seen} voxels of the longest side's {longest:.0f}")
    yield Choice("network.kernel", scale.kernel, f"for {scale.name}; the paper has 5")
    yield Choice("network.maps", scale.maps, f"for {scale.name}; the paper has 32")
    yield Choice("network.init_gain", 1.0, "the recipe: a usual start")


def _training(scale: Scale) -> Iterator[Choice]:
    yield Choice("training.epochs", scale.epochs, f"of 15 minibatches; for {scale.name}")
    yield Choice("training.validation_steps", 2, "they choose nothing (training.select)")
    yield Choice("training.batch", scale.batch, f"for {scale.name}")
    yield Choice(
        "training.learning_rate", scale.learning_rate, "the recipe" if scale.kernel == 3 else "lower: more weights"
    )
    yield Choice("training.weight_decay", 1e-3, "the recipe: few volumes")
    yield Choice("training.schedule", "polynomial", "the recipe: a known length, no validation needed")
    yield Choice("training.average", 0.99, "the recipe: the average of the weights is kept")
    yield Choice("training.select", "last", "the recipe: no case chooses the model that measures it")


def _autoencoders(scale: Scale) -> Iterator[Choice]:
    yield Choice(
        "autoencoder.epochs", round(0.6 * scale.epochs), "of S-TL and masked pretraining, where they are asked for"
    )
    yield Choice("autoencoder.batch", 2 * scale.batch, "two patches where the network has one")
    yield Choice("autoencoder.learning_rate", scale.learning_rate, "as the network's")
    yield Choice("autoencoder.inside", 0.8, "patches lie within the scan, not in padding")
    yield Choice("autoencoder.with_validation", False, "validation cases are seen by nobody")
    yield Choice("multitask.batch", scale.batch, "as the network's")


def _across(ml: float) -> float:
    """Diameter of a ball, mm.

    >>> round(_across(1500))
    142
    """
    return float((6000 * ml / math.pi) ** (1 / 3))


def _tolerance(facts: DatasetFacts, spacing: Spacing) -> float:
    across = max(map(_across, facts.label_ml.values()))
    return min(5.0, max(float(f"{across / 20:.1g}"), round(max(spacing), 3)))
