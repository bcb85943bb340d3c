"""What is made of it: the network, its training, and the masks that it draws."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpcseg.config.data import LARGEST_EDGE
from hpcseg.sections import Count, Fraction, Positive, Section, key

_AS_NNUNET = "ours: as in nnU-Net, which the paper follows"


class NetworkConfig(Section):
    """F-Net (paper 3.1, table 1), or the U-Net that it is compared with (room `networks`)."""

    kind: Literal["fnet", "unet"] = key(
        "fnet",
        "F-Net, or a 3D U-Net of the same levels, maps and kernel (baseline only)",
        source="paper 3.1; unet: 1, 6",
    )
    margin: Literal["auto"] | Annotated[int, Field(ge=0)] = key(
        "auto",
        "U-Net only: what it sees around the target; auto: half the patch, and up to a whole coarsest voxel in all",
        unit="voxels",
        source="ours: context that the F-Net gets from its coarse levels",
    )
    levels: Annotated[int, Field(ge=1, le=5)] = key(4, "resolution levels", unit="levels", source="paper 3.1")
    kernel: Literal[3, 5] = key(5, "edge of every convolution's kernel", unit="voxels", source="paper 3.2.3")
    maps: Count | tuple[Count, ...] = key(
        32, "feature maps of every level, or of each, finest first", unit="feature maps", source="paper 3.2.3"
    )
    init_gain: Positive = key(0.01, "gain of the Xavier normal initialisation", unit="factor", source="paper 3.1.1")

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

    epochs: Count = key(1000, "the most that a training takes", unit="epochs", source="paper 3.1.1")
    steps: Count = key(15, "minibatches of an epoch", unit="steps", source="paper 3.1.1")
    validation_steps: Count = key(8, "minibatches of its validation", unit="steps", source="paper 3.1.1")
    batch: Count = key(8, "patches of a minibatch, over all GPUs of the run", unit="patches", source="paper 3.2.3")
    loss: Literal["dice_ce", "focal"] = key(
        "dice_ce", "Dice (nnU-Net's) + cross-entropy, or focal loss", source="paper 3.2.3"
    )
    focal_gamma: Annotated[float, Field(ge=0)] = key(
        2.0,
        "focal loss only: exponent of 1 - p",
        unit="exponent",
        source="ours: the focal loss's own; the paper names none",
    )
    learning_rate: Positive = key(3e-4, "learning rate of Adam, at the start", unit="per step", source="paper 3.1.1")
    weight_decay: Annotated[float, Field(ge=0)] = key(
        3e-5, "weight decay (L2), coupled as in torch.optim.Adam", unit="factor", source="paper 3.1.1"
    )
    ema_training: Fraction = key(
        0.93, "weight of the old value in the moving average of the training loss", unit="share", source=_AS_NNUNET
    )
    ema_validation: Fraction = key(
        0.9, "weight of the old value in that of the validation loss", unit="share", source=_AS_NNUNET
    )
    schedule: Literal["plateau", "polynomial"] = key(
        "plateau",
        "how the learning rate falls: on plateaus; or from epoch to epoch, as (1 - epoch / epochs)^exponent, "
        "to the end: no early stop",
        source="paper 3.1.1; polynomial is ours: short trainings of a known length",
    )
    polynomial_exponent: Positive = key(
        0.9, "with polynomial: the exponent", unit="exponent", source="ours: as in nnU-Net"
    )
    plateau_drop: Annotated[float, Field(ge=0)] = key(
        5e-3, "fall of a moving average that counts, absolute", unit="loss", source="paper 3.1.1"
    )
    plateau_epochs: Count = key(
        50,
        "the rate falls after more than so many without such a fall in training",
        unit="epochs",
        source="paper 3.1.1",
    )
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = key(
        0.2,
        "what the rate is multiplied by then",
        unit="factor",
        source='ours: "reduced by 20 %" (paper 3.1.1) read as to 20 %: with 0.8 the floor lies beyond 1000 epochs',
    )
    rate_floor: Positive = key(1e-7, "least learning rate", unit="per step", source="paper 3.1.1")
    stop_epochs: Count = key(
        60,
        "at the least rate, training ends after more than so many without such a fall in validation",
        unit="epochs",
        source="paper 3.1.1",
    )
    select: Literal["best", "last"] = key(
        "best",
        "which model is kept: of the lowest validation average (autoencoders: training average), or the last",
        source="ours: the paper does not say for the F-Net; autoencoders: 3.3.2",
    )
    average: Annotated[float, Field(ge=0, lt=1)] = key(
        0.0,
        "what a step leaves of the old value in a moving average of the weights, which is then validated and kept; "
        "0: the weights themselves are; in step t, from 0, at most (1 + t) / (10 + t)",
        unit="share",
        source="ours: steadier with few volumes (Polyak averaging, mean teacher)",
    )
    start: str = key(
        "",
        "model that training begins with: a model.pt, or a run's folder, as seen from the sweep file or from here; its "
        'digest is part of the run; "": fresh weights',
        source="ours: a study goes on from an earlier one, or from another organ's",
    )
    start_layers: Literal["all", "features", "encoders"] = key(
        "all",
        "with start: which weights are the model's; features: all but the classifier's, for other classes; encoders: "
        "those of the F-Net's levels, or of the U-Net's way down; the others are fresh",
        source="ours: other classes need another classifier",
    )
    start_share: Annotated[float, Field(gt=0, le=1)] = key(
        1.0,
        "with start: of learning_rate, at which the model's weights are tuned",
        unit="share",
        source="ours: as masked.fine_tune_share, but off until it is asked for",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto",
        "number type of convolutions; auto: bfloat16 on CUDA, float32 on CPU",
        source="ours: speed; losses, norms stay float32",
    )
    compile: bool = key(False, "torch.compile the networks", source="ours: speed; rounding differs, when resumed too")
    checkpoint_seconds: Positive = key(
        60.0,
        "time between saves, beside the one at the end; within an epoch too, where one process trains; no part of a "
        "run's identity",
        unit="s",
        source="ours: what a killed job may lose",
    )
    checkpoint_epochs: Annotated[int, Field(ge=0)] = key(
        0,
        "epochs between saves that are made whatever the time; 0: none; no part of a run's identity",
        unit="epochs",
        source="ours: what a killed job may lose, where epochs take long",
    )
    dsc_epochs: Annotated[int, Field(ge=0)] = key(
        0,
        "epochs between measurements of whole validation scans, for watching; 0: none; no part of a run's identity",
        unit="epochs",
        source="ours: patches do not tell what becomes of whole scans",
    )
    dsc_cases: Count = key(
        2,
        "how many validation scans these are, the first ones; no part of a run's identity",
        unit="scans",
        source="ours: each takes as long as a segmentation",
    )


class AutoencoderConfig(Section):
    """The winner-take-all autoencoders and the volumes they see (paper 3.3; room `training`)."""

    epochs: Count = key(500, "the most that a training takes", unit="epochs", source="paper 3.3.1")
    steps: Count = key(15, "minibatches of an epoch", unit="steps", source="paper 3.3.1")
    batch: Count = key(12, "patches of a minibatch", unit="patches", source="paper 3.4")
    winners: Count = key(
        5, "activations that each feature map of a sample keeps", unit="activations", source="paper 3.3"
    )
    lifetime: Fraction = key(
        0.0,
        "share of a minibatch's samples that may win in each feature map; 0: all of them",
        unit="share",
        source="ours: the autoencoder that the paper builds on has it",
    )
    decoder: Literal["transposed", "cbru"] = key(
        "transposed",
        "one transposed convolution, or a CBRU block",
        source="paper 3.4, where cbru was tried and dropped",
    )
    loss: Literal["huber", "l2"] = key(
        "huber", "loss of the reconstruction; l2 is e²/2", source="paper 3.4, where l2 was tried and dropped"
    )
    huber_delta: Positive = key(
        1.0, "error from which the Huber loss is linear", unit="SD of intensity", source="paper 3.4"
    )
    learning_rate: Positive = key(3e-4, "learning rate of Adam, at the start", unit="per step", source="paper 3.1.1")
    sampling: Literal["auto", "gaussian", "uniform", "organ"] = key(
        "auto",
        "where patches are: around the middle, anywhere, around where the labelled organ should be; "
        "auto: uniform with supplementary volumes, else gaussian",
        source="paper 3.3.1, 4; organ: proposed in 6",
    )
    sigma: Positive = key(
        0.25, "SD of the Gaussian around the middle or the organ", unit="image sizes", source="paper 3.3.1"
    )
    inside: Fraction = key(
        0.0,
        "least share of a target patch that lies within the scan, or as much as the scan allows; 0: the centre does",
        unit="share",
        source="ours: patches of small volumes are mostly padding, and winners gather at the edges of scans",
    )
    with_validation: bool = key(True, "the validation images are seen, too", source="paper 4.2, 4.4")
    with_supplementary: bool = key(False, "the images of data.supplementary are seen, too", source="paper 5")

    @property
    def resolved_sampling(self) -> Literal["gaussian", "uniform", "organ"]:
        """`sampling`, with what auto stands for."""
        if self.sampling == "auto":
            return "uniform" if self.with_supplementary else "gaussian"
        return self.sampling


class InferenceConfig(Section):
    """Segmentation of whole volumes (paper 3.1.2; room `inference`)."""

    mode: Literal["tiles", "paper"] = key(
        "tiles",
        "large tiles without overlap, or overlapping patches as published",
        source="paper 3.1.2; tiles is ours: valid convolutions give the same from any tile, sooner",
    )
    tile: Annotated[int, Field(ge=0, le=LARGEST_EDGE)] = key(
        0, "with tiles: edge of one; 0: as large as is sensible", unit="voxels", source="ours: memory"
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = key(
        0.5, "with paper: overlap of neighbouring patches, along each axis", unit="share", source="paper 3.1.2"
    )
    sigma: Positive = key(
        0.5, "with paper: SD of the Gaussian weights in a patch", unit="patch sizes", source="paper 3.1.2"
    )
    precision: Literal["trained", "float32", "bfloat16", "float16"] = key(
        "trained",
        "number type of convolutions, float32 on a device without it; trained: as training.precision",
        source="ours: speed; result.json says which it was",
    )
    save_masks: bool = key(True, "masks of validation and test scans are kept", source="ours: figures show them")
    nsd_mm: Positive = key(
        5.0,
        "tolerance of the normalised surface distance; no part of a run's identity: result.json holds it",
        unit="mm",
        source="ours: FLARE's for the liver; smaller organs need less, a hippocampus 1 mm",
    )


class LoggingConfig(Section):
    """Loggers of other packages that get every epoch's numbers beside `history.jsonl`; no part of a run's identity."""

    tensorboard: bool = key(
        False,
        "TensorBoard's event files in the folder tensorboard/ of each run; needs hpcseg[tensorboard]",
        source="ours: for who has it open all day",
    )
    mlflow: str = key(
        "",
        'tracking URI of MLflow: a server, or a folder by its absolute path; "": none; needs hpcseg[mlflow]',
        source="ours: as tensorboard",
    )
    wandb: Literal["", "offline"] = key(
        "",
        'Weights & Biases: an offline run in wandb/ of each run, for wandb sync; "": none; needs hpcseg[wandb]',
        source="ours: as tensorboard; nodes of a cluster often reach nothing",
    )
