"""The part of docs/performance.md that is computed: the floor of every stage, from `floor` alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hpcseg.files import write_text
from tests.benchmarks.report import markdown_table
from tests.gpu.floor import (
    PAPER,
    Ceilings,
    Stage,
    autoencoder_step,
    by_kind,
    fnet_step,
    multitask_step,
    operations,
    seconds,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BEGIN, END = "<!-- floor: begin; written by python -m tests.gpu.floor --write -->", "<!-- floor: end -->"
ASSUMED = Ceilings(800e12, 3e12)  # round numbers for an H100; `make gpu` measures
BATCH, AUTOENCODER_BATCH, MULTITASK = 8, 12, (5, 8, 2)


def main(arguments: list[str]) -> int:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.floor", description="The floor of a training step")
    parser.add_argument("--write", action="store_true", help=f"into docs/{PAGE.name}, instead of printing")
    if parser.parse_args(arguments).write:
        write_text(PAGE, updated(PAGE.read_text(encoding="utf-8")))
    else:
        print(tables())
    return 0


def updated(page: str) -> str:
    """The page with the tables as they are now between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}{END}{rest.split(END)[1]}"


def tables() -> str:
    """The floor of the F-Net's step by kind, its convolutions by layer, and the steps of all strategies."""
    step = fnet_step(PAPER, BATCH)
    rate = f"{ASSUMED.operations / 1e12:.0f} TFLOP/s and {ASSUMED.bytes / 1e12:.0f} TB/s"
    return "\n".join(
        [
            f"F-Net of the paper, batch {BATCH}, maps of 16 bits; floor at {rate}, which are assumed:\n",
            _by_kind(step),
            "Its convolutions, forward alone:\n",
            _by_layer(step),
            "Whole steps:\n",
            _steps(),
        ]
    )


def _by_kind(stages: Sequence[Stage]) -> str:
    lines = [("stage", "GFLOP", "GB", "floor, ms", "set by")]
    for kind, own in by_kind(stages).items():
        lines.append((kind, *_numbers(own), _limit(own)))
    return markdown_table([*lines, ("**step**", *_numbers(stages), "")])


def _by_layer(stages: Sequence[Stage]) -> str:
    lines = [("layer", "GFLOP", "MB", "floor, µs", "set by")]
    for stage in by_kind(stages)["convolution forward"]:
        floor = 1e6 * stage.seconds(ASSUMED)
        moved = f"{stage.bytes / 1e6:,.0f}"
        lines.append((stage.name, f"{stage.operations / 1e9:,.1f}", moved, f"{floor:,.0f}", stage.limit(ASSUMED)))
    return markdown_table(lines)


def _steps() -> str:
    batch, beside, levels = MULTITASK
    every = {f"F-Net, batch {BATCH}": fnet_step(PAPER, BATCH)}
    for level in range(PAPER.geometry.levels):
        every[f"autoencoder of level {level}, batch {AUTOENCODER_BATCH}"] = autoencoder_step(
            PAPER, level, AUTOENCODER_BATCH
        )
    every[f"S-MTL, batches {batch} and {beside}, levels 0 to {levels - 1}"] = multitask_step(
        PAPER, batch, beside, levels
    )
    lines = [("step", "TFLOP", "GB", "floor, ms")]
    for name, stages in every.items():
        moved = sum(stage.bytes for stage in stages) / 1e9
        floor = 1e3 * seconds(stages, ASSUMED)
        lines.append((name, f"{operations(stages) / 1e12:.2f}", f"{moved:.2f}", f"{floor:.2f}"))
    return markdown_table(lines)


def _numbers(stages: Sequence[Stage]) -> tuple[str, str, str]:
    moved = sum(stage.bytes for stage in stages) / 1e9
    return f"{operations(stages) / 1e9:,.1f}", f"{moved:.2f}", f"{1e3 * seconds(stages, ASSUMED):.2f}"


def _limit(stages: Sequence[Stage]) -> str:
    """Which ceiling sets most of the floor."""
    by = {"arithmetic": 0.0, "memory": 0.0}
    for stage in stages:
        by[stage.limit(ASSUMED)] += stage.seconds(ASSUMED)
    return max(by, key=lambda limit: by[limit])
