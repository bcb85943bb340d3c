"""Options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", file_okay=False, help="Folder of all runs and sweeps.")]
Data = Annotated[Path, typer.Option("--data", file_okay=False, help="Folder that holds the datasets.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a key everywhere, a grid's list included; repeatable."),
]
Grids = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="NAME", help="Only this [[grid]] of the file, with its tables; repeatable."),
]
Stage = Annotated[
    str | None,
    typer.Option(
        "--stage",
        metavar="DIR",
        help="Copy stores to this folder of the node first, e.g. '$SLURM_TMPDIR'; '' does not.",
    ),
]
DEFAULT_RUNS = Path("runs")
DEFAULT_DATA = Path("data")


class Where(enum.StrEnum):
    """Where jobs run."""

    auto = "auto"
    local = "local"
    slurm = "slurm"
