"""The command line: every command parses, calls one function, and prints. Heavy imports stand inside the commands."""

from __future__ import annotations

import enum
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcseg import terminal
from hpcseg.errors import BadInput, HpcsegError

if TYPE_CHECKING:
    from hpcseg.sweeps.plan import Plan

app = typer.Typer(
    name="hpcseg",
    help="Train 3D segmentation networks when few volumes are labelled and many are not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs and sweeps.")]
Data = Annotated[Path, typer.Option("--data", help="Folder that holds the datasets.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a key everywhere, a grid's list included; repeatable."),
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


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="New folder for the dataset.", metavar="DIR")],
    training: Annotated[int, typer.Option(help="Labelled training cases.")] = 12,
    test: Annotated[int, typer.Option(help="Labelled test cases.")] = 4,
    unlabelled: Annotated[int, typer.Option(help="Cases without labels, in imagesTs.")] = 0,
    size: Annotated[int, typer.Option(help="Voxels across the patient.")] = 96,
    seed: Annotated[int, typer.Option(help="Same seed, same dataset.")] = 0,
) -> None:
    """Write a dataset of synthetic abdominal CTs."""
    from hpcseg.volumes.phantoms import write_phantoms

    with terminal.counting("drawing phantoms") as progress:
        write_phantoms(
            folder, training=training, test=test, unlabelled=unlabelled, seed=seed, size=size, progress=progress
        )
    print(f"{training + test + unlabelled} cases in {folder}")


@app.command()
def pack(
    dataset: Annotated[Path, typer.Argument(help="Folder with dataset.json (MSD or nnU-Net raw layout).")],
    to: Annotated[Path, typer.Option("--to", help="The store to write.", metavar="STORE.h5")],
    spacing: Annotated[str, typer.Option(help="median, one number, or three (z,y,x), in mm.")] = "median",
    foreground: Annotated[
        str, typer.Option(help="Label values of the foreground, e.g. 1,2; by default all but 0.")
    ] = "",
    anisotropic: Annotated[bool, typer.Option(help="With median: keep the three medians apart.")] = False,
    codec: Annotated[str, typer.Option(help="none, or bitshuffle-lz4: about half the size, slower to read.")] = "none",
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    force: Annotated[bool, typer.Option(help="Replace a store that exists.")] = False,
) -> None:
    """Preprocess the labelled cases of a dataset into a chunk store; what was stopped or killed goes on."""
    from hpcseg.sweeps.catalogue import dataset_pack
    from hpcseg.sweeps.keys import parse_config
    from hpcseg.sweeps.profile import usable_cores
    from hpcseg.volumes import packing

    if to.exists() and not force:
        raise BadInput(f"{to}: exists; give another name or --force to replace it")
    settings = [f"preprocessing.spacing={f'[{spacing}]' if ',' in spacing else spacing}"]
    settings += [f"data.foreground=[{foreground}]", f"preprocessing.isotropic={str(not anisotropic).lower()}"]
    settings += [f"preprocessing.codec={codec}"]
    spec = dataset_pack(dataset, parse_config(settings))
    with terminal.counting(f"packing {spec.dataset}") as progress:
        packing.pack(spec, to, workers=workers or usable_cores(), progress=progress)
    z, y, x = spec.spacing_zyx
    print(f"{len(spec.cases)} cases at {z:g} × {y:g} × {x:g} mm (z, y, x) in {to}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A dataset's folder, a store, or a run directory.")],
    png: Annotated[
        Path | None, typer.Option("--png", help="Folder for pictures: slices of each case, an overview.", metavar="DIR")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace pictures that exist.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every case, however many there are.")] = False,
    workers: Annotated[int, typer.Option(help="Scans that are read at a time; 0: one per core.")] = 0,
    json: Json = False,
) -> None:
    """Say what is in a dataset, a store or a run, and what is wrong with it; exit code 1 if something is.

    Notes on what deserves a look (outliers, likely duplicates) leave the exit code at 0.
    """
    from hpcseg.reports import report_tables

    report = _inspect(path, png, force, workers)
    if json:
        terminal.print_json(report)
    else:
        for item in report_tables(report, every=every):
            terminal.console().print(item)
        if report.get("pictures"):
            print(f"{len(report['pictures'])} pictures in {png}")
    for warning in report.get("warnings", ()):
        terminal.note(f"note: {warning}")
    for problem in report["problems"]:
        terminal.fail(problem)
    if report["problems"]:
        raise typer.Exit(1)


def _inspect(path: Path, png: Path | None, force: bool, workers: int) -> dict[str, Any]:
    from hpcseg.sweeps.profile import usable_cores
    from hpcseg.volumes import inspection

    if path.is_dir() and (path / "run.json").exists():
        from hpcseg.sweeps.status import inspect_run

        if png is not None:
            raise BadInput(f"{path}: a run has no pictures; give --png with a dataset's folder or a store")
        return inspect_run(path.resolve())
    if path.is_dir():
        with terminal.counting("reading scans") as progress:
            return inspection.inspect_dataset(
                path, progress=progress, workers=workers or usable_cores(), pictures=png, force=force
            )
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; give a dataset's folder, a store or a run directory")
    with terminal.counting("checking") as progress:
        return inspection.inspect_store(path, progress, pictures=png, force=force)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file.", metavar="FILE")],
    on: Annotated[Where, typer.Option(help="auto: Slurm where there is one, else this machine.")] = Where.auto,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; write nothing.")] = False,
    overrides: Overrides = None,
    data: Data = DEFAULT_DATA,
    jobs: Annotated[str | None, typer.Option("--jobs", help="Job profile: a file, or a name in jobs/.")] = None,
    stage: Stage = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Do what a sweep file says and is not done yet: pack, pretrain, train, evaluate."""
    from hpcseg.sweeps.apply import apply, choose_backend
    from hpcseg.sweeps.plan import make_plan
    from hpcseg.sweeps.profile import read_profile
    from hpcseg.sweeps.sweepfile import read_sweep

    made = make_plan(read_sweep(file, overrides or ()), data, runs)
    if plan:
        _print_plan(made, json)
        return
    backend = choose_backend(on.value)
    with terminal.following(made) as notify:
        outcome = apply(made, backend, read_profile(jobs, backend).staged(stage), notify)
    submitted, total = len(outcome.submitted), len(made.stages)
    if json:
        terminal.print_json({"submitted": list(outcome.submitted), "failed": outcome.failed})
    elif not submitted:
        print(f"{made.sweep.name}: nothing to submit; all {total} stages are done or on their way")
    else:
        print(
            f"{made.sweep.name}: {submitted} of {total} stages submitted ({backend}); see hpcseg status --runs {runs}"
        )
    _report_failures(outcome.failed, runs)


def _print_plan(made: Plan, json: bool) -> None:
    if json:
        terminal.print_json(made.as_json())
    else:
        for table in terminal.plan_tables(made):
            terminal.console().print(table)


def _report_failures(failed: dict[str, str], runs: Path) -> None:
    """One line per failed run; exit code 2 if all of them failed for the user's input, else 1."""
    if not failed:
        return
    from hpcseg.sweeps.rundir import find_runs

    causes = []
    for run in find_runs(runs):
        failure = run.failure() if run.id in failed else None
        if failure is not None:
            terminal.fail(f"{run.id}: {failure.message} (whole story: hpcseg logs {run.id} --runs {runs})")
            causes.append(failure.cause)
    if len(failed) > len(causes):
        terminal.note(f"{len(failed) - len(causes)} more stages were not begun or not finished")
    raise typer.Exit(2 if causes and all(cause == "input" for cause in causes) else 1)


@app.command()
def status(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Sweeps; all of them by default.", metavar="SWEEP")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds until all has ended.")] = False,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Say where every run is, and why."""
    from hpcseg.sweeps.status import read_status

    lines = read_status(runs, sweeps or ())
    if not lines:
        raise BadInput(
            f"{runs}: no sweep was applied here yet; apply one with hpcseg sweep FILE, or name another --runs"
        )
    if json:
        terminal.print_json([line.as_json() for line in lines])
    elif watch:
        terminal.watch_status(lambda: read_status(runs, sweeps or ()))
    else:
        for table in terminal.status_tables(lines):
            terminal.console().print(table)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="A run's id or the beginning of it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what is added, until Ctrl-C.")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Print the output of a run's last attempt."""
    from hpcseg.sweeps.status import newest_log, select_runs

    chosen = select_runs(runs, run)
    if len(chosen) > 1:
        raise BadInput(
            f"{len(chosen)} runs match '{run}'; give more of the id: {', '.join(r.id for r in chosen[:3])} …"
        )
    path = newest_log(chosen[0])
    terminal.note(str(path))
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if not follow:
                return
            time.sleep(0.5)


@app.command()
def cancel(
    pattern: Annotated[
        str, typer.Argument(help="A sweep's name, a run's id, the beginning of one, or a pattern with *.")
    ],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Ask queued and running runs to save and stop; `hpcseg sweep` goes on with them."""
    from hpcseg.sweeps.status import cancel as cancel_runs

    _print_ids("cancelled", cancel_runs(runs, pattern))


@app.command()
def retry(
    pattern: Annotated[
        str, typer.Argument(help="A sweep's name, a run's id, the beginning of one, or a pattern with *.")
    ],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Clear the failure of failed runs, so that they count as stopped; `hpcseg sweep` then goes on with them."""
    from hpcseg.sweeps.status import retry as retry_runs

    _print_ids("cleared", retry_runs(runs, pattern))


def _print_ids(what: str, ids: list[str]) -> None:
    print(f"{what}: {', '.join(ids) or 'nothing'}")


@app.command()
def collect(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's name; by default the one applied last.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder of the results.", metavar="DIR")] = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Collect DSC over all runs of a sweep: tables (text, Markdown, CSV, JSON, LaTeX) and figures."""
    import json as json_module

    from hpcseg.results.collect import collect as collect_runs
    from hpcseg.results.export import summary, write_collection
    from hpcseg.results.rendering import to_json, to_rich
    from hpcseg.results.tables import build_table

    collection = collect_runs(runs, sweep)
    tables = [build_table(definition, collection) for definition in collection.tables]
    folder = to or runs / "results" / collection.sweep
    paths = write_collection(collection, folder, report=terminal.note)
    for problem in collection.problems:
        terminal.note(problem)
    if json:
        whole = summary(collection) | {"tables": [json_module.loads(to_json(table)) for table in tables]}
        terminal.print_json(whole | {"files": [str(path) for path in paths]})
        return
    for table in tables:
        terminal.console().print(to_rich(table))
    if collection.missing:
        print(f"{len(collection.missing)} of {len(collection.runs)} runs have no result yet")
    print(f"tables and figures in {folder}:")
    for path in paths:
        if path.suffix in {".md", ".png"}:
            print(f"  {path}")


@app.command()
def train(
    target: Annotated[Path, typer.Argument(help="A sweep file with --set that leaves one run, or a run directory.")],
    overrides: Overrides = None,
    data: Data = DEFAULT_DATA,
    runs: Runs = DEFAULT_RUNS,
    threads: Annotated[int, typer.Option(help="CPU threads of a new run; 0: all cores.")] = 0,
    stage: Stage = None,
) -> None:
    """Train and evaluate one run here in the foreground, after what it needs; goes on from a checkpoint."""
    from hpcseg.patches.tiers import Reading
    from hpcseg.sweeps.foreground import run_here
    from hpcseg.sweeps.profile import stage_folder

    reading = Reading(stage=stage_folder(stage or ""))
    with terminal.bars() as progress:
        result = run_here(target, overrides or (), data, runs, threads, terminal.beat_bar(progress), reading)
    scores = {
        name: [score["dsc"] for score in found if score["dsc"] is not None] for name, found in result["sets"].items()
    }
    for name, values in scores.items():
        if values:
            print(f"{name}: DSC {sum(values) / len(values):.4f} over {len(values)} scans")


@app.command()
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
    from hpcseg.sweeps.foreground import run_and_threads
    from hpcseg.training.rehearsal import rehearse as rehearse_run

    path, usual = run_and_threads(run, runs)
    with terminal.counting("rehearsing") as progress:
        done = rehearse_run(
            path,
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
        terminal.console().print(terminal.rehearsal_table(done))
    if done.difference is not None:
        terminal.fail(f"the runs differ, first in {done.difference}; both are kept in {done.folder}")
        raise typer.Exit(1)
    if not json:
        print(f"identical after {done.steps} steps: history, weights, optimizer states")


@app.command()
def segment(
    model: Annotated[Path, typer.Argument(help="A run directory or a model.pt.", metavar="RUN")],
    images: Annotated[list[Path], typer.Argument(help="NIfTI scans.", metavar="IMAGE…")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the masks.", metavar="DIR")],
    force: Annotated[bool, typer.Option(help="Replace masks that exist.")] = False,
) -> None:
    """Segment scans with a trained model; each mask is on its scan's own grid."""
    from hpcseg.inference.files import segment_files

    with terminal.counting("segmenting") as progress:
        for path in segment_files(model, images, to, force=force, progress=progress):
            print(path)


def main() -> None:
    """Entry point: runs a command; every expected error is one line, and no traceback reaches the user."""
    try:
        app()
    except HpcsegError as error:
        terminal.fail(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone
        sys.exit(141)
    except OSError as error:
        terminal.fail(f"{error.filename or 'system'}: {error.strerror or error}")
        sys.exit(1)
    except Exception:
        terminal.fail(_crash_report())
        sys.exit(70)


def _crash_report() -> str:
    """Keep the traceback of an unexpected error in a file; returns the line that tells of it."""
    import tempfile
    import traceback

    lines = traceback.format_exc()
    with tempfile.NamedTemporaryFile("w", prefix="hpcseg-", suffix=".log", delete=False) as file:
        file.write(f"{' '.join(sys.argv)}\n{time.ctime()}\n{lines}")
    return f"unexpected: {lines.splitlines()[-1]}; this is a fault of hpcseg, please report it with {file.name}"
