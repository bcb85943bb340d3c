"""What training will cost, from what siblings of a run took: runs of the same stage that do the same work per epoch.

A run's fold, seed, subset and learning rates do not make a step dearer; its strategy, network, patches and minibatches
do. Evaluation and packing are not part of it. Pure, but for `measure`, which reads the files of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcseg.config import (
    AutoencoderConfig,
    NetworkConfig,
    PatchesConfig,
    RunConfig,
    TrainingConfig,
)
from hpcseg.errors import BadInput
from hpcseg.paths import TRAINING_FILE
from hpcseg.runs.rundir import RunDir
from hpcseg.seals import read_sealed
from hpcseg.sections import Section
from hpcseg.study.identity import remembered
from hpcseg.training.strategy import strategy_of

MEASURED_SIBLINGS = 12  # of a run; more do not make the mean better
PHASES = {"training", "pretraining"}  # in which a heartbeat counts steps of training

# Keys that change what is learnt, and not what a step costs. Whatever is not listed makes runs of different cost.
_FREE: dict[type[Section], set[str]] = {
    PatchesConfig: {"foreground_share"},
    NetworkConfig: {"init_gain"},
    TrainingConfig: {
        *("epochs", "learning_rate", "weight_decay", "ema_training", "ema_validation", "focal_gamma", "rate_floor"),
        *("plateau_drop", "plateau_epochs", "plateau_factor", "stop_epochs", "select"),
        *("checkpoint_seconds", "checkpoint_epochs"),
        *("schedule", "polynomial_exponent", "average", "start", "start_layers", "start_share"),
    },
    AutoencoderConfig: {
        *("epochs", "learning_rate", "huber_delta", "sampling", "sigma", "with_validation", "with_supplementary"),
    },
}
_OF_PRETRAINING = {"precision", "compile"}  # what it reads of the training section, as far as it costs

Kind = tuple[str, ...]  # equal for siblings


@dataclass(frozen=True)
class Epochs:
    """A run that is to be trained, as far as its cost goes."""

    stage: str
    kind: Kind
    epochs: int  # as configured
    done: float = 0.0  # of them


@dataclass(frozen=True)
class Measured:
    """What was measured of one run.

    Attributes:
        epoch_s: seconds of an epoch, summed over the processes that trained the run together.
        share: part of the configured epochs after which training ended; None while it goes on.
        device: that it was trained on (cuda, cpu); empty where it is not known.
    """

    epoch_s: float
    share: float | None = None
    device: str = ""


@dataclass(frozen=True)
class StageForecast:
    """What the runs of one stage will cost.

    Attributes:
        hours: of all runs together, each process counted (a process has one GPU).
        longest: hours of the longest run.
        known: runs with measured siblings.
        unknown: runs without; they are not part of the hours.
    """

    hours: float = 0.0
    longest: float = 0.0
    known: int = 0
    unknown: int = 0

    def wall_hours(self, at_once: int, ranks: int = 1) -> float:
        """Least hours until all known runs are done, with `at_once` of them at a time, each shared by `ranks`."""
        return max(self.longest, self.hours / at_once) / ranks


@dataclass(frozen=True)
class Forecast:
    """What runs will cost, by stage, and on which devices their siblings were measured."""

    stages: Mapping[str, StageForecast] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()

    @property
    def hours(self) -> float:
        """Of all stages; a process counts for itself."""
        return sum(stage.hours for stage in self.stages.values())

    @property
    def unknown(self) -> int:
        """Runs without measured siblings."""
        return sum(stage.unknown for stage in self.stages.values())

    @property
    def known(self) -> int:
        """Runs with measured siblings."""
        return sum(stage.known for stage in self.stages.values())

    @property
    def unit(self) -> str:
        """What the hours are hours of."""
        if self.devices == {"cpu"}:
            return "process hours on CPUs"
        return "process hours" if self.known and not self.devices else "GPU hours"  # no sibling says where it ran yet

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        stages = {
            stage: {"hours": round(one.hours, 3), "known": one.known, "unknown": one.unknown}
            for stage, one in self.stages.items()
        }
        return {"hours": round(self.hours, 3), "unit": self.unit, "unknown": self.unknown, "stages": stages}


def forecast(todo: Iterable[Epochs], measured: Mapping[Kind, Sequence[Measured]]) -> Forecast:
    """Cost of `todo` from what was `measured` of runs of each kind. Pure.

    Runs are taken to end after the same share of their epochs as their finished siblings did, and to need all of their
    epochs where no sibling is finished.
    """
    stages: dict[str, StageForecast] = {}
    devices = set()
    for run in todo:
        before = stages.get(run.stage, StageForecast())
        siblings = measured.get(run.kind, ())
        if not siblings:
            stages[run.stage] = StageForecast(before.hours, before.longest, before.known, before.unknown + 1)
            continue
        shares = [one.share for one in siblings if one.share is not None] or [1.0]
        epochs = max(run.epochs * sum(shares) / len(shares) - run.done, 0.0)
        hours = epochs * sum(one.epoch_s for one in siblings) / len(siblings) / 3600
        longest = max(before.longest, hours)
        stages[run.stage] = StageForecast(before.hours + hours, longest, before.known + 1, before.unknown)
        devices |= {one.device for one in siblings if one.device}
    return Forecast(stages, frozenset(devices))


def kind_of(stage: str, config: RunConfig, level: int | None = None) -> Kind:
    """What siblings have in common: the stage, and every setting that an epoch's cost depends on."""
    if stage == "pretrain":
        shared = (_costs(config.patches), _costs(config.network), _costs(config.augmentation))
        return (
            stage,
            config.strategy if level is None else str(level),
            *shared,
            _pretraining_costs(config.training),
            _costs(config.autoencoder),
        )
    strategy = strategy_of(config)
    sections = [config.patches, config.network, config.augmentation, config.training]
    sections += [config.autoencoder] if strategy.needs(config).unlabelled else []
    return (stage, config.strategy, *map(_costs, sections), _costs(strategy.section(config), *strategy.free_keys))


def epochs_of(stage: str, config: RunConfig) -> int:
    """Epochs that a run of a stage is configured to have."""
    return config.autoencoder.epochs if stage == "pretrain" else config.training.epochs


def measure(run: RunDir, epochs: int) -> Measured | None:
    """What can be read of a run of `epochs` epochs that is trained or in training; None where nothing was measured."""
    try:
        if (run.path / TRAINING_FILE).exists():
            trained = read_sealed(run.path / TRAINING_FILE)
            done = trained["epochs"]
            return Measured(trained["rank_seconds"] / done, done / epochs, trained["precision"]["device"])
        heartbeat, submission = run.heartbeat(), run.submission()
        if heartbeat is None or heartbeat.phase not in PHASES or not heartbeat.eta_s:
            return None
        step_s = heartbeat.eta_s / (heartbeat.steps - heartbeat.step)
        return Measured(step_s * heartbeat.steps / epochs * (1 if submission is None else submission.ranks))
    except (ArithmeticError, BadInput, KeyError, TypeError):  # a damaged file is status' affair: here it says nothing
        return None


def epochs_done(run: RunDir) -> float:
    """Epochs that an unfinished run has behind it, by its last heartbeat."""
    try:
        heartbeat = run.heartbeat()
    except BadInput:
        return 0.0
    trains = heartbeat is not None and heartbeat.phase in PHASES
    return float(max(heartbeat.epoch - 1, 0)) if heartbeat is not None and trains else 0.0


@remembered
def _costs(section: Section, *free: str) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude={*free, *_FREE.get(type(section), ())})


@remembered
def _pretraining_costs(section: TrainingConfig) -> dict[str, Any]:
    return section.model_dump(mode="json", include=_OF_PRETRAINING)
