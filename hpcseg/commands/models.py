"""train, rehearse, segment: one run or model, in the foreground."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.commands.options import DEFAULT_DATA, DEFAULT_RUNS, Data, Grids, Json, Overrides, Runs, Stage
from hpcseg.errors import BadInputs
from hpcseg.screens import terminal
from hpcseg.screens.status_tables import rehearsal_table
from hpcseg.text import counted


class Mode(enum.StrEnum):
    """How a volume is covered."""

    tiles = "tiles"
    paper = "paper"


class Precision(enum.StrEnum):
    """Number type of convolutions."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def train(
    target: Annotated[
        Path, typer.Argument(help="A sweep file of which --grid and --set leave one run, or a run directory.")
    ],
    overrides: Overrides = None,
    grids: Grids = None,
    data: Data = DEFAULT_DATA,
    runs: Runs = DEFAULT_RUNS,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of a new run; 0: all cores.")] = 0,
    stage: Stage = None,
) -> None:
    """Train and evaluate one run here in the foreground, after what it needs; goes on from a checkpoint."""
    from hpcseg.spec import Reading
    from hpcseg.submit.foreground import run_here
    from hpcseg.submit.profile import stage_folder

    reading = Reading(stage=stage_folder(stage or ""))
    with terminal.bars() as progress:
        on_beat = terminal.beat_bar(progress)
        result = run_here(target, overrides or (), data, runs, threads, on_beat, reading, grids or ())
    for name, found in result["sets"].items():
        values = {(score["case"], score["class"]): score["dsc"] for score in found if score["dsc"] is not None}
        if values:
            scans = len({case for case, _ in values})
            print(f"{name}: DSC {sum(values.values()) / len(values):.4f} over {counted(scans, 'scan')}")


def rehearse(
    run: Annotated[str, typer.Argument(help="A run directory, a run's id or the beginning of it.")],
    interruptions: Annotated[int, typer.Option(min=0, help="Signals in all: SIGKILL, SIGTERM or USR2, drawn.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the short copy.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each of its epochs.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the drawn steps and signals.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: as the run was submitted, else all cores.")] = 0,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Prove that interruptions change nothing: train a short copy of a run with and without them, compare the bits.

    The run itself is not touched. Exit code 1 if the two differ; then both are kept.
    """
    from hpcseg.host import usable_cores
    from hpcseg.runs.selection import select_run
    from hpcseg.training.rehearsal import rehearse as rehearse_run

    chosen = select_run(runs, run)
    submission = chosen.submission()
    usual = usable_cores() if submission is None else submission.threads
    with terminal.counting("rehearsing") as progress:
        done = rehearse_run(
            chosen.path.resolve(),
            epochs=epochs,
            steps=steps,
            interruptions=interruptions,
            seed=seed,
            threads=threads or usual,
            progress=progress,
        )
    if json:
        terminal.print_json(done.as_json())
    else:
        terminal.console().print(rehearsal_table(done))
    if done.difference is not None:
        terminal.fail(f"the runs differ, first in {done.difference}; both are kept in {done.folder}")
        raise typer.Exit(1)
    if not json:
        print(f"identical after {done.steps} steps: history, weights, optimizer states")


def segment(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Runs (directory, id or its beginning; also of trainings under way) or model.pt files, then NIfTI "
            "scans, folders of them, 'patterns*' or CSV lists.",
            metavar="RUN… IMAGE…",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder for the masks.", metavar="DIR", file_okay=False)],
    mode: Annotated[
        Mode | None, typer.Option(help="Instead of inference.mode: large tiles, or overlapping patches as published.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Instead of inference.precision; float32 where the device has no other."),
    ] = None,
    largest: Annotated[bool, typer.Option(help="Keep the largest connected component of each class only.")] = False,
    probabilities: Annotated[bool, typer.Option(help="Write NAME.p1.nii.gz, … too: a map of each class.")] = False,
    force: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave scans whose masks exist.")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Segment scans with a trained model, or with several whose probabilities are averaged.

    Each mask is on its scan's own grid. Scans that cannot be read are named when the others are done (exit code 2).
    """
    from hpcseg.inference.outputs import Wanted, free_images, models_and_images
    from hpcseg.runs.selection import path_or_run

    named, given = models_and_images(paths, terminal.note)
    models = [path_or_run(runs, name) for name in named]
    images = free_images(given, to, force=force, skip_existing=skip_existing)
    if len(images) < len(given):
        terminal.note(f"{len(given) - len(images)} of {counted(len(given), 'mask')} there already")
    if not images:
        return
    from hpcseg.inference.masks import segment_files  # loads torch
    from hpcseg.training.early import is_under_way

    for model in filter(is_under_way, models):
        terminal.note(f"{model}: its training has not ended; these are its best weights so far")

    wanted = Wanted(
        None if mode is None else mode.value, None if precision is None else precision.value, largest, probabilities
    )
    try:
        with terminal.bars() as bars:
            scans, tiles = (bars.add_task(name, total=None, says="") for name in ("segmenting", "tiles"))

            def scan_done(done: int, total: int, name: str) -> None:
                bars.update(scans, completed=done, total=total, says=name)

            def tile_done(done: int, total: int) -> None:
                bars.update(tiles, completed=done, total=total)

            for path in segment_files(
                models,
                images,
                to,
                wanted=wanted,
                force=force,
                skip_existing=skip_existing,
                progress=scan_done,
                advance=tile_done,
            ):
                print(path, flush=True)
    except KeyboardInterrupt:
        terminal.fail("stopped; the same command with --skip-existing goes on with the other scans")
        raise typer.Exit(130) from None
    except BadInputs as error:
        for line in error.lines:
            terminal.fail(line)
        if len(images) > 1:
            terminal.note(
                f"{len(error.lines)} of {len(images)} scans are not segmented; --skip-existing leaves the others"
            )
        raise typer.Exit(error.exit_code) from None
