"""What goes in: volumes, their preprocessing, patches and their augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hpcseg.sections import Fraction, Positive, Section, key

LARGEST_EDGE = 512  # voxels; one map of such a patch takes 537 MB


def _rising(pair: Pair) -> Pair:
    if pair[0] >= pair[1]:
        raise PydanticCustomError("not_rising", "Input should be a list of two numbers of which the second is larger")
    return pair


Pair = tuple[float, float]
Rising = Annotated[Pair, AfterValidator(_rising)]
Percent = Annotated[float, Field(ge=0, le=100)]
Labels = tuple[int, ...] | tuple[tuple[int, ...], ...]


class DataConfig(Section):
    """Which volumes, and how they are split (room `volumes`)."""

    dataset: str = key("", "folder of the labelled dataset, below --data; split into folds", source="paper 2.1")
    test: str = key(
        "",
        "dataset whose labelled cases are the test set; the same name as dataset: its imagesTs with labelsTs",
        source="paper 2.1",
    )
    supplementary: tuple[str, ...] = key(
        (), "datasets whose images the autoencoders may see (autoencoder.with_supplementary)", source="paper 2.2"
    )
    unlabelled_ts: bool = key(
        False,
        "the dataset's own imagesTs join the unlabelled volumes, but for labelled ones of a test set",
        source="ours: they are there, unlabelled",
    )
    foreground: Labels = key(
        (),
        "labels of the one class ([1, 2]), or of each class ([[1], [2]]); []: all but 0",
        unit="label values",
        source="ours: [1, 2] is the paper's liver, tumour included",
    )
    test_foreground: Labels = key(
        (),
        "the same in the test dataset, where it numbers its labels otherwise; []: as foreground",
        unit="label values",
        source="ours: a test set of another source (paper 2.1) has its own numbers",
    )
    groups: str = key(
        "",
        'cases of one patient, never on both sides of a fold: "": each case for itself; "pairs": cases 2k-1 and 2k; '
        '"names": cases whose names differ in a word of a time or a side alone (visit2, frame01, left), or of one BIDS '
        'subject; or a JSON file in the dataset with {"patient_groups": {group: [cases]}}',
        source="ours: a patient on both sides would be no test",
    )
    splits: str = key(
        "",
        "file of given splits, in the dataset or beside the sweep file: nnU-Net's splits_final.json; JSON or CSV rows "
        'of case, fold, role, rank (docs/sweeps.md); one of test cases alone sets these aside; "": folds are drawn',
        source="ours: published splits can be repeated, and a test set can choose nothing",
    )
    folds: Annotated[int, Field(ge=2)] = key(5, "folds of the cross-validation", unit="folds", source="paper 2.3")
    split_seed: int = key(0, "seed of the shuffle into folds", source="ours: the paper's split is not published")


class PreprocessingConfig(Section):
    """How a scan becomes a stored volume and a normalised patch (paper 3.2.1; rooms `volumes`, `patches`)."""

    spacing: Literal["median"] | Positive | tuple[Positive, Positive, Positive] = key(
        "median", "spacing of the stored volumes; three numbers are z, y, x", unit="mm", source="paper 3.2.1"
    )
    isotropic: bool = key(
        True, 'with spacing = "median": the largest of the three medians on every axis', source="paper 3.2.1"
    )
    intensity: Literal["percentile", "window", "zscore"] = key(
        "percentile",
        "how intensities are normalised: clipped at the foreground's percentiles, then z-score (method 2); a window of "
        "fixed HU (method 1); zscore: clipped at the scan's own percentiles, for MR",
        source="paper 3.2.1; zscore is ours: the scale of MR differs from scan to scan",
    )
    percentiles: Annotated[tuple[Percent, Percent], AfterValidator(_rising)] = key(
        (0.5, 99.5), "where intensities are clipped before the z-score", unit="%", source="paper 3.2.1"
    )
    window: Rising = key((-155.0, 295.0), "with window: where intensities are clipped", unit="HU", source="paper 3.2.1")
    window_range: Rising = key((-3.0, 3.0), "with window: what it is mapped to", source="paper 3.2.1")
    padding: Literal["auto", "minimum"] | float = key(
        "auto",
        "intensity outside the volume, and what is cropped away around it; auto: -1000 for CT, else the minimum",
        unit="HU",
        source='ours: "non-zero" (paper 3.2.1) says nothing of HU',
    )
    pyramid_clip: Literal["auto", "none"] | Rising = key(
        "auto",
        "where intensities are clipped before pooling to coarser levels; auto: [-200, 400] for CT, else none",
        unit="HU",
        source="ours: air would drown tissue at organ borders",
    )
    codec: Literal["none", "bitshuffle-lz4"] = key(
        "none", "how stored volumes are compressed; lossless, no part of a run's identity", source="ours: disk space"
    )


class PatchesConfig(Section):
    """Size and place of the target patches (paper 3.1.1; room `patches`)."""

    size: Annotated[int, Field(ge=4, le=LARGEST_EDGE)] = key(
        72, "edge of a target patch", unit="voxels", source="paper 3.2.3"
    )
    lattice: Annotated[Literal[1, 2, 4, 8], BeforeValidator(lambda v: "true" if v is True else v)] = key(  # True == 1
        4,
        "target origins are multiples of it, plus the phase at which every level starts on a whole voxel",
        unit="voxels",
        source="ours: boxes of coarse levels are read, not averaged anew",
    )
    foreground_share: Fraction = key(
        0.3, "share of a minibatch that is centred on foreground, at least", unit="share", source="paper 3.1.1"
    )


_BEYOND = "ours: few volumes want more than the paper's"
INTENSITIES = ("brightness", "contrast", "gamma", "noise", "blur", "curve")  # keys of `AugmentationConfig`
_INJECTIVE = 0.4  # of the spacing: smaller displacements of control points fold nothing (Choi and Lee 2000: 1 / 2.48)


class AugmentationConfig(Section):
    """Random changes of training patches (paper 3.2.2; room `patches`); each value is the largest."""

    enabled: bool = key(False, "whether training patches are changed", source="paper 3.2.2, tried and dropped")
    translation: Annotated[float, Field(ge=0)] = key(10.0, "shift along each axis", unit="voxels", source="paper 3.2.2")
    rotation: Annotated[float, Field(ge=0, le=180)] = key(
        15.0, "turn about each axis", unit="degrees", source="paper 3.2.2"
    )
    log_scale: Annotated[float, Field(ge=0, le=1)] = key(0.2, "natural logarithm of the scale", source="paper 3.2.2")
    mirror: tuple[Literal["z", "y", "x"], ...] = key(
        (),
        "axes along which every other patch is mirrored: x is left and right, y front and back, z up and down",
        source=f"{_BEYOND}; which axes is for the anatomy to say",
    )
    elastic: Annotated[float, Field(ge=0)] = key(
        0.0,
        "displacement of the control points of a cubic B-spline, along each axis; at most 0.4 of their spacing",
        unit="voxels",
        source=f"{_BEYOND}; no more, so that nothing folds",
    )
    elastic_spacing: Positive = key(32.0, "between control points", unit="voxels", source=_BEYOND)
    brightness: Annotated[float, Field(ge=0)] = key(
        0.0, "what is added to normalised intensities", unit="SD of intensity", source=_BEYOND
    )
    contrast: Annotated[float, Field(ge=0, le=2)] = key(
        0.0, "natural logarithm of what they are multiplied by", unit="log factor", source=_BEYOND
    )
    gamma: Annotated[float, Field(ge=0, le=2)] = key(
        0.0, "natural logarithm of the exponent on the range of the clip window", unit="log exponent", source=_BEYOND
    )
    noise: Annotated[float, Field(ge=0)] = key(
        0.0,
        "SD of Gaussian noise at level 0; at level l less by 2^(1.5 l), as in a mean of 8^l voxels",
        unit="SD of intensity",
        source=_BEYOND,
    )
    blur: Annotated[float, Field(ge=0)] = key(
        0.0,
        "SD of a Gaussian blur, in voxels of level 0: fewer of a coarser level's, where it is left out below 0.2",
        unit="voxels",
        source=_BEYOND,
    )
    curve: Annotated[float, Field(ge=0, le=1)] = key(
        0.0,
        "how far five knots of a curve over the clip window are moved; above 0.125 dark may become the brighter",
        unit="share of the clip window",
        source=f"{_BEYOND}; as in Models Genesis (Zhou 2019)",
    )
    intensity_share: Fraction = key(
        0.3, "probability of each change of intensity, for each patch", unit="share", source=_BEYOND
    )

    @model_validator(mode="after")
    def _not_folding(self) -> AugmentationConfig:
        if self.elastic > _INJECTIVE * self.elastic_spacing:
            raise ValueError(
                f"elastic = {self.elastic:g} exceeds {_INJECTIVE:g} of elastic_spacing = {self.elastic_spacing:g}, "
                "and could fold a patch over itself; lower it or set control points further apart"
            )
        return self

    @property
    def changes_intensity(self) -> bool:
        """Whether any change of intensity can be drawn."""
        return self.enabled and self.intensity_share > 0 and any(getattr(self, name) for name in INTENSITIES)
