"""What one run is: typed, frozen sections, one per room, with the paper's values as defaults.

Every key that goes beyond the paper is listed with its reason in docs/fidelity.md. Lengths are millimetres or voxels
as named; axes are z, y, x. No key here says where files are or what a job may use: that is not part of a run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Pair = tuple[float, float]
Labels = tuple[int, ...] | tuple[tuple[int, ...], ...]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Which volumes, and how they are split (room `volumes`)."""

    # Folder of the labelled dataset, below --data.
    dataset: str = ""
    # Dataset whose labelled cases are the test set; the same name as `dataset`: its imagesTs with labelsTs.
    test: str = ""
    # Datasets whose images only the autoencoders may see.
    supplementary: tuple[str, ...] = ()
    # The dataset's own imagesTs join the unlabelled volumes.
    unlabelled_ts: bool = False
    # Label values of the one class, or of each class; (): all but 0.
    foreground: Labels = ()
    # The same in the test dataset, where it numbers its labels otherwise; (): as `foreground`.
    test_foreground: Labels = ()
    # "": every case for itself; "pairs": cases 2k-1 and 2k; or a JSON file with "patient_groups" in the dataset.
    groups: str = ""
    folds: Annotated[int, Field(ge=2)] = 5
    split_seed: int = 0


class PreprocessingConfig(Section):
    """How a scan becomes a stored volume and a normalised patch (paper 3.2.1; rooms `volumes`, `patches`)."""

    # mm; three numbers are z, y, x.
    spacing: Literal["median"] | Positive | tuple[Positive, Positive, Positive] = "median"
    # With "median": the largest of the three medians on every axis.
    isotropic: bool = True
    # The paper's methods 2 and 1; zscore: per image, for MR.
    intensity: Literal["percentile", "window", "zscore"] = "percentile"
    percentiles: Pair = (0.5, 99.5)
    # HU, and what they are mapped to (method 1).
    window: Pair = (-155.0, 295.0)
    window_range: Pair = (-3.0, 3.0)
    # Intensity outside the volume; auto: -1000 for CT, else the image's minimum.
    padding: Literal["auto", "minimum"] | float = "auto"
    # Clip before pooling to the coarser levels; auto: [-200, 400] for CT, else none.
    pyramid_clip: Literal["auto", "none"] | Pair = "auto"
    # How stored volumes are compressed; lossless, so it changes no result and is not part of a run's identity.
    codec: Literal["none", "bitshuffle-lz4"] = "none"


class PatchesConfig(Section):
    """Size and place of the target patches (paper 3.1.1; room `patches`)."""

    size: Annotated[int, Field(ge=4)] = 72
    lattice: Literal[1, 2, 4, 8] = 4  # target origins are multiples of it, plus the geometry's phase
    foreground_share: Fraction = 0.3


class AugmentationConfig(Section):
    """Random transforms of training patches (the paper's variant, 3.2.2; room `patches`); each value is the largest."""

    enabled: bool = False
    translation: Annotated[float, Field(ge=0)] = 10.0  # voxels
    rotation: Annotated[float, Field(ge=0, le=180)] = 15.0  # degrees, about each axis
    log_scale: Annotated[float, Field(ge=0, le=1)] = 0.2


class NetworkConfig(Section):
    """F-Net (paper 3.1, table 1), or the U-Net that it is compared with (room `networks`)."""

    kind: Literal["fnet", "unet"] = "fnet"
    # U-Net only: voxels around the target that it sees; auto: half the patch, and up to a whole coarsest voxel in all.
    margin: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    levels: Annotated[int, Field(ge=1, le=5)] = 4
    kernel: Literal[3, 5] = 5
    maps: Count | tuple[Count, ...] = 32
    init_gain: Positive = 0.01

    @model_validator(mode="after")
    def _one_per_level(self) -> NetworkConfig:
        if isinstance(self.maps, tuple) and len(self.maps) != self.levels:
            raise ValueError(
                f"maps lists {len(self.maps)} numbers for {self.levels} levels; give one number or one per level"
            )
        return self

    @property
    def maps_per_level(self) -> tuple[int, ...]:
        """Feature maps of each level, finest first."""
        return self.maps if isinstance(self.maps, tuple) else (self.maps,) * self.levels


class TrainingConfig(Section):
    """Optimisation of the F-Net (paper 3.1.1; room `training`)."""

    epochs: Count = 1000
    steps: Count = 15
    validation_steps: Count = 8
    batch: Count = 8
    loss: Literal["dice_ce", "focal"] = "dice_ce"
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    learning_rate: Positive = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    ema_training: Fraction = 0.93
    ema_validation: Fraction = 0.9
    plateau_drop: Annotated[float, Field(ge=0)] = 5e-3
    plateau_epochs: Count = 50
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.2
    rate_floor: Positive = 1e-7
    stop_epochs: Count = 60
    select: Literal["best", "last"] = "best"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 on CUDA, float32 on CPU
    compile: bool = False  # torch.compile the networks
    checkpoint_epochs: Count = 5


class AutoencoderConfig(Section):
    """The winner-take-all autoencoders and the volumes they see (paper 3.3; room `training`)."""

    epochs: Count = 500
    steps: Count = 15
    batch: Count = 12
    winners: Count = 5
    lifetime: Fraction = 0.0  # share of a minibatch's samples that may win in each feature map; 0: all of them
    decoder: Literal["transposed", "cbru"] = "transposed"
    loss: Literal["huber", "l2"] = "huber"
    huber_delta: Positive = 1.0
    learning_rate: Positive = 3e-4
    # auto: uniform with supplementary volumes, else gaussian; organ: around where the labelled organ should be.
    sampling: Literal["auto", "gaussian", "uniform", "organ"] = "auto"
    sigma: Positive = 0.25  # of the Gaussian around the centre, in image sizes
    with_validation: bool = True
    with_supplementary: bool = False


class TransferConfig(Section):
    """S-TL: autoencoder weights as the F-Net's start (paper 4.1, 4.2; room `training`)."""

    phi: Literal["auto"] | Positive = "auto"
    scheme: Literal["freeze_all", "tune_3", "tune_2_3", "tune_1_3", "tune_2_3_retrain_coarsest"] = "tune_2_3"
    fine_tune_rate: Positive = 8e-5


class MultitaskConfig(Section):
    """S-MTL: F-Net and autoencoders side by side (paper 4.3, 4.4; room `training`)."""

    levels: Count = 2  # autoencoders on levels 0 .. levels - 1
    batch: Count = 5
    autoencoder_batch: Count = 8
    gamma: Literal["auto"] | Positive = "auto"
    factor: Positive = 1.0


class InferenceConfig(Section):
    """Segmentation of whole volumes (paper 3.1.2; room `inference`)."""

    mode: Literal["tiles", "paper"] = "tiles"
    tile: Annotated[int, Field(ge=0)] = 0  # edge of a tile in voxels; 0: as large as is sensible
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    sigma: Positive = 0.5  # of the Gaussian weights, in patch sizes
    save_masks: bool = True
    nsd_mm: Positive = 5.0  # tolerance of the normalised surface distance


class RunConfig(Section):
    """One cell of the study: a strategy, a number of labelled volumes, a fold, a seed, and how everything is done."""

    strategy: Literal["baseline", "transfer", "multitask"] = "baseline"
    labelled: Count | Literal["all"] = "all"
    fold: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    data: DataConfig = DataConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    patches: PatchesConfig = PatchesConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    transfer: TransferConfig = TransferConfig()
    multitask: MultitaskConfig = MultitaskConfig()
    inference: InferenceConfig = InferenceConfig()

    @field_validator("labelled", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("give a number of volumes or 'all'")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.fold >= self.data.folds:
            last = self.data.folds - 1
            raise ValueError(f"fold {self.fold} does not exist: data.folds gives folds 0 to {last}")
        if self.network.kind == "unet" and self.strategy != "baseline":
            raise ValueError(
                f"strategy = '{self.strategy}' needs an F-Net: network.kind = 'unet' is trained as baseline only"
            )
        if self.autoencoder.decoder == "cbru" and self.patches.size < self.network.kernel:
            raise ValueError("autoencoder.decoder = 'cbru' needs patches.size of at least network.kernel")
        if self.multitask.levels > self.network.levels:
            raise ValueError(
                f"multitask.levels = {self.multitask.levels} exceeds network.levels = {self.network.levels}"
            )
        return self
