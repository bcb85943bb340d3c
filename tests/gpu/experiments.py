"""What the paper's experiments would take, from the steps measured. Pure.

An experiment of the paper is one strategy with one number of labelled volumes: five runs, one for each fold
(section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcseg.config import RunConfig

FOLDS = 5
PUBLISHED_HOURS = {"baseline": 80, "transfer": 130, "multitask": 195}  # of one experiment on a GTX 1080 Ti
ASSUMED = (
    "One run is {epochs:,} epochs of {steps} training and {validation} validation steps, as without an early stop; "
    "S-TL adds {pretraining} epochs of {own_steps} steps of each level's autoencoder, which every run trains anew. "
    "Packing, reading, checkpoints and the segmentation of whole volumes are not in it. The paper's hours are for the "
    "five folds on one GTX 1080 Ti, in its own code."
)


def run_seconds(figures: Mapping[str, float], config: RunConfig) -> dict[str, float]:
    """Seconds of one run of each strategy, as far as its steps were measured."""
    training, coder = config.training, config.autoencoder
    step, epoch = figures.get("step_bfloat16_ms"), figures.get("epoch_resident_ms")
    validation, both = figures.get("validation_step_ms"), figures.get("multitask_ms")
    levels = [figures.get(f"autoencoder{level}_ms") for level in range(config.network.levels)]
    found: dict[str, float] = {}
    if validation is None:
        return found
    validating = training.validation_steps * validation
    if epoch is None and step is not None:
        epoch = training.steps * step + validating
    if epoch is not None:
        found["baseline"] = training.epochs * epoch / 1e3
        known = [level for level in levels if level is not None]
        if len(known) == len(levels):
            found["transfer"] = found["baseline"] + coder.epochs * coder.steps * sum(known) / 1e3
    if both is not None:
        found["multitask"] = training.epochs * (training.steps * both + validating) / 1e3
    return found


def hours_table(figures: Mapping[str, float], config: RunConfig) -> list[list[str]]:
    """Strategy, one run, an experiment, the paper's hours, how much faster; rows of text."""
    rows = []
    for strategy, seconds in run_seconds(figures, config).items():
        hours = FOLDS * seconds / 3600
        times = PUBLISHED_HOURS[strategy] / hours
        rows.append(
            [strategy, f"{seconds:,.0f} s", f"{hours:.2f} h", f"{PUBLISHED_HOURS[strategy]} h", f"{times:.0f} ×"]
        )
    return rows


def assumed(config: RunConfig) -> str:
    """What the table takes for granted."""
    return ASSUMED.format(
        epochs=config.training.epochs,
        steps=config.training.steps,
        validation=config.training.validation_steps,
        pretraining=config.autoencoder.epochs,
        own_steps=config.autoencoder.steps,
    )
