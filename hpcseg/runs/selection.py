"""Which runs a name on the command line means."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.paths import RUN_FILE, STAGES, SWEEP_FILE, sweep_folder
from hpcseg.runs.applied import applied_sweeps, read_sweep_record
from hpcseg.runs.rundir import RunDir, find_runs
from hpcseg.text import word


def select_run(runs_root: Path, name: str) -> RunDir:
    """The one run that `name` means: its directory, its id, or what `select_runs` takes and only one run matches.

    Raises:
        BadInput: there is none, or more than one.
    """
    if (directory := run_directory(name)) is not None:
        return directory
    runs = select_runs(runs_root, name)
    exact = [run for run in runs if run.id == name] or runs  # an id may be the beginning of others
    if len(exact) > 1:
        few = ", ".join(run.id for run in exact[:3])
        raise BadInput(f"{len(exact)} runs match '{name}'; give more of the id: {few} …")
    return exact[0]


def run_directory(name: str) -> RunDir | None:
    """The run whose directory is named; None: the name is no run directory's."""
    return RunDir(Path(name).resolve()) if name.strip() and (Path(name) / RUN_FILE).exists() else None


def path_or_run(runs_root: Path, given: Path) -> Path:
    """What is given where it exists or is a path; the directory of the run that it names otherwise.

    Raises:
        BadInput: no run has this name, or several do.
    """
    if given.exists() or given.is_symlink() or given.name != str(given):
        return given
    try:
        return select_run(runs_root, str(given)).path
    except BadInput as error:
        raise BadInput(f"{given}: no such file or folder, and as a run: {error}") from None


def select_runs(runs_root: Path, pattern: str) -> list[RunDir]:
    """Runs whose id matches a shell pattern or starts with it, or that belong to the sweep of that name.

    Raises:
        BadInput: there is none.
    """
    if not pattern.strip():
        raise BadInput("'' matches every run; name a sweep or a run, or write '*' if all are meant")
    if (sweep_folder(runs_root, pattern) / SWEEP_FILE).exists():
        return runs_of(runs_root, [pattern])[0]
    runs = [run for run in find_runs(runs_root) if fnmatch.fnmatchcase(run.id, pattern) or run.id.startswith(pattern)]
    if not runs:
        raise BadInput(
            f"no run or sweep in {runs_root} matches '{pattern}'; hpcseg status --runs {word(runs_root)} lists them"
        )
    return runs


def runs_of(runs_root: Path, sweeps: Sequence[str] = ()) -> tuple[list[RunDir], dict[str, list[str]]]:
    """Runs of sweeps (of all by default), in the order of the stages, and what each needs.

    Raises:
        BadInput: no such sweep was applied here, or its record is damaged.
    """
    records = [read_sweep_record(runs_root, name) for name in (sweeps or applied_sweeps(runs_root))]
    ids = {
        stage: dict.fromkeys(i for record in records for i in record.get("stages", {}).get(stage, ()))
        for stage in STAGES
    }
    runs = [RunDir.of(runs_root, stage, run_id) for stage in STAGES for run_id in ids[stage]]
    return runs, {run_id: needs for record in records for run_id, needs in record["needs"].items()}
