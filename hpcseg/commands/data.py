"""phantom, pack, inspect: datasets and stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcseg.commands.options import DEFAULT_RUNS, Json, Runs
from hpcseg.errors import BadInput
from hpcseg.paths import RUN_FILE
from hpcseg.screens import terminal
from hpcseg.text import counted
from hpcseg.volumes.datasets import DESCRIPTION, datasets_in
from hpcseg.volumes.layouts import ENDINGS


def phantom(
    folder: Annotated[Path, typer.Argument(help="New folder for the dataset.", metavar="DIR", file_okay=False)],
    training: Annotated[int, typer.Option(help="Labelled training cases.")] = 12,
    test: Annotated[int, typer.Option(help="Labelled test cases.")] = 4,
    unlabelled: Annotated[int, typer.Option(help="Cases without labels, in imagesTs.")] = 0,
    size: Annotated[int, typer.Option(help="Voxels across the patient.")] = 96,
    seed: Annotated[int, typer.Option(help="Same seed, same dataset.")] = 0,
) -> None:
    """Write a dataset of synthetic abdominal CTs."""
    from hpcseg.phantoms.dataset import write_phantoms

    with terminal.counting("drawing phantoms") as progress:
        write_phantoms(
            folder, training=training, test=test, unlabelled=unlabelled, seed=seed, size=size, progress=progress
        )
    print(f"{counted(training + test + unlabelled, 'case')} in {folder}")


def pack(
    dataset: Annotated[Path, typer.Argument(help="Folder with dataset.json (MSD or nnU-Net raw layout).")],
    to: Annotated[Path, typer.Option("--to", help="The store to write.", metavar="STORE.h5", dir_okay=False)],
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
    from hpcseg.host import usable_cores
    from hpcseg.inspection.foreign import require_dataset
    from hpcseg.study.keys import parse_config
    from hpcseg.study.packs import dataset_pack
    from hpcseg.volumes import packing
    from hpcseg.volumes.seal import is_store

    if (to.exists() or to.is_symlink()) and not is_store(to):
        raise BadInput(f"{to}: exists, and is no store of hpcseg, so that it is not replaced; give another name")
    if to.exists() and not force:
        raise BadInput(f"{to}: exists; give another name or --force to replace it")
    require_dataset(dataset)
    settings = [f"preprocessing.spacing={f'[{spacing}]' if ',' in spacing else spacing}"]
    settings += [f"data.foreground=[{foreground}]", f"preprocessing.isotropic={str(not anisotropic).lower()}"]
    settings += [f"preprocessing.codec={codec}"]
    spec = dataset_pack(dataset, parse_config(settings))
    to.parent.mkdir(parents=True, exist_ok=True)
    with terminal.counting(f"packing {spec.dataset}") as progress:
        packing.pack(spec, to, workers=workers or usable_cores(), progress=progress)
    z, y, x = spec.spacing_zyx
    print(f"{counted(len(spec.cases), 'case')} at {z:g} × {y:g} × {x:g} mm (z, y, x) in {to}")


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A dataset's folder, one with datasets in it, a scan, a store, a run (directory, id or its "
            "beginning), or a model.pt."
        ),
    ],
    label: Annotated[
        Path | None, typer.Option("--label", help="Of a scan; in a dataset it is found.", metavar="LABEL")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png", help="Folder for pictures: slices of each case, an overview.", metavar="DIR", file_okay=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace pictures that exist.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every case, however many there are.")] = False,
    workers: Annotated[int, typer.Option(help="Scans that are read at a time; 0: one per core.")] = 0,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Say what is in a dataset, a scan, a store or a run, and what is wrong with it; exit code 1 if something is.

    Notes on what deserves a look (outliers, likely duplicates) leave the exit code at 0.
    """
    from hpcseg.runs.selection import path_or_run
    from hpcseg.screens.inspection import report_tables

    path = path_or_run(runs, path)
    if label is not None and not path.name.endswith(ENDINGS):
        raise BadInput(f"--label {label}: belongs to a scan, and {path} is none; leave it out")
    report = _inspect(path, label, png, force, workers)
    if json:
        terminal.print_json(report)
    else:
        for item in report_tables(report, every=every):
            terminal.console().print(item)
        if report.get("pictures"):
            print(f"{counted(len(report['pictures']), 'picture')} in {png}")
    for warning in report.get("warnings", ()):
        terminal.note(f"note: {warning}")
    for problem in report["problems"]:
        terminal.fail(problem)
    if report["problems"]:
        raise typer.Exit(1)


def _inspect(path: Path, label: Path | None, png: Path | None, force: bool, workers: int) -> dict[str, Any]:
    from hpcseg.host import usable_cores

    if path.is_dir() and (path / RUN_FILE).exists():
        from hpcseg.runs.why import inspect_run

        if png is not None:
            raise BadInput(f"{path}: a run has no pictures; give --png with a dataset's folder or a store")
        return inspect_run(path.resolve())
    if path.is_dir():
        from hpcseg.inspection.foreign import refuse_folder

        inside = not (path / DESCRIPTION).is_file() and bool(datasets_in(path))
        if not inside:
            refuse_folder(path)
        from hpcseg.inspection.dataset_findings import inspect_dataset, list_datasets  # takes half a second

        if inside:
            if png is not None:
                raise BadInput(f"{path}: holds several datasets; give --png with one of them")
            return list_datasets(path)
        with terminal.counting("reading scans") as progress:
            return inspect_dataset(
                path, progress=progress, workers=workers or usable_cores(), pictures=png, force=force
            )
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; give a dataset's folder, a store or a run directory")
    if path.suffix == ".pt":
        from hpcseg.training.model import TrainedModel

        return TrainedModel.load(path).summary()
    if path.name.endswith(ENDINGS):
        from hpcseg.inspection.dataset_findings import inspect_scan

        return inspect_scan(path, label, pictures=png, force=force)
    from hpcseg.inspection.foreign import refuse_file

    refuse_file(path)
    from hpcseg.inspection.store_findings import inspect_store

    with terminal.counting("checking") as progress:
        return inspect_store(path, progress, pictures=png, force=force)
