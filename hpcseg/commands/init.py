"""init: from a folder of scans to a sweep file."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcseg.errors import BadInput
from hpcseg.screens import terminal
from hpcseg.text import PLAIN_NAME, counted, listed, word

if TYPE_CHECKING:
    from hpcseg.inspection.layout_guess import Guess
    from hpcseg.volumes.datasets import Dataset


def init(
    folder: Annotated[Path, typer.Argument(help="Scans and labels, in whatever layout.", metavar="FOLDER")],
    to: Annotated[Path, typer.Option("--to", help="The sweep file to write.", metavar="FILE", dir_okay=False)] = Path(
        "study.toml"
    ),
    write_dataset: Annotated[
        bool, typer.Option("--write-dataset", help="Write FOLDER/dataset.json where there is none; nothing is moved.")
    ] = False,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0, help="GiB of the GPU that will train; 0: a CPU. Default: what is seen here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a sweep file that exists.")] = False,
    workers: Annotated[int, typer.Option(help="Scans that are read at a time; 0: one per core.")] = 0,
) -> None:
    """Look at a folder of scans, and write a sweep file for it: every key with the reason for its value."""
    from hpcseg.files import make_folder, write_text
    from hpcseg.study.draft import draft_sweep
    from hpcseg.study.measured import read_facts

    if to.exists() and not force:
        raise BadInput(f"{to}: exists; give another name with --to, or --force to replace it")
    if not re.fullmatch(PLAIN_NAME, to.stem):
        raise BadInput(f"{to}: a sweep has its file's name: of letters, digits, - _ and .; give another one with --to")
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; give one with scans in it")
    root = folder.resolve()
    dataset, report = _open(root, folder, write_dataset, workers)
    memory = _seen_memory() if gpu_memory is None else gpu_memory or None
    command = f"hpcseg sweep {word(to)} --data {word(root.parent)}"
    facts = read_facts(dataset, report, memory)
    make_folder(to.parent)
    write_text(to, draft_sweep(facts, command))
    for note in facts.notes:
        terminal.note(f"note: {note}")
    print(f"{to}: a study of {root.name} for {'a CPU' if memory is None else f'a GPU of {memory:g} GiB'}; next:")
    print(f"  {command} --plan")


def _open(root: Path, folder: Path, write_dataset: bool, workers: int) -> tuple[Dataset, dict[str, Any]]:
    """The dataset in a folder, described anew where it was asked for, and what `inspect` finds in it."""
    from hpcseg.files import write_json
    from hpcseg.inspection.unprepared import describe, guess_folder, undescribed_dataset
    from hpcseg.volumes.datasets import DESCRIPTION, open_dataset

    if (root / DESCRIPTION).is_file():
        dataset = open_dataset(root)
        print(f"{folder}: {dataset.layout} layout, {_counts(dataset)}, by its {DESCRIPTION}")
        report = _inspect(dataset, workers)
        for problem in report["problems"]:
            terminal.note(f"note: {problem}")
        return dataset, report
    guess = guess_folder(root)
    _tell(folder, guess)
    if not write_dataset:
        raise BadInput(
            f"{folder}: has no {DESCRIPTION}; hpcseg init {word(folder)} --write-dataset writes one, as "
            "said above, and moves nothing"
        )
    dataset = undescribed_dataset(root, guess)
    report = _inspect(dataset, workers)
    description, notes = describe(guess, dataset, report)
    for note in notes:
        terminal.note(f"note: {note}")
    write_json(root / DESCRIPTION, description)
    print(f"{folder / DESCRIPTION}: written; intensities are {'HU, of CT' if dataset.is_ct else 'no HU, taken for MR'}")
    return open_dataset(root), report


def _inspect(dataset: Dataset, workers: int) -> dict[str, Any]:
    from hpcseg.host import usable_cores
    from hpcseg.inspection.dataset_findings import inspect_dataset

    with terminal.counting("reading scans") as progress:
        return inspect_dataset(dataset, progress, workers=workers or usable_cores())


def _tell(folder: Path, guess: Guess) -> None:
    """What was taken for what, and why, with an example of each reason."""
    parts = {"training": "with labels", "test": "with labels, as a test set", "unlabelled": "without labels"}
    found = [f"{counted(len(guess.of(part)), 'scan')} {words}" for part, words in parts.items() if guess.of(part)]  # type: ignore[arg-type]
    print(f"{folder}: {guess.layout}: {', '.join(found)}")
    reasons = Counter(case.reason for case in guess.cases if case.label is not None)
    for reason, count in reasons.items():
        case = next(case for case in guess.cases if case.reason == reason and case.label is not None)
        print(f"  {case.name}: {case.image} with {case.label} ({counted(count, 'pair')}: {reason})")
    if unlabelled := guess.of("unlabelled"):
        print(f"  without a label: {listed([case.image for case in unlabelled])}")
    for note in guess.notes:
        terminal.note(f"note: {note}")


def _counts(dataset: Dataset) -> str:
    return f"{counted(len(dataset.training), 'labelled scan')}, {counted(len(dataset.test), 'scan')} under test"


def _seen_memory() -> float | None:
    """GiB of this machine's GPU; None without one. torch takes seconds to load: only where there may be one."""
    if shutil.which("nvidia-smi") is None:
        return None
    import torch

    return round(torch.cuda.mem_get_info()[1] / 2**30, 1) if torch.cuda.is_available() else None
