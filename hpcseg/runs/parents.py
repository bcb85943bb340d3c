"""From which files of other runs a run was made, and whether they are still what they were.

A run's id says what its ancestors had to do. A network that is trained anew may still be another one (on a GPU it is),
and so would be the labels that it gives: runs that learn from another's network write down which one it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from hpcseg import paths
from hpcseg.errors import BadInput
from hpcseg.owners import regular
from hpcseg.seals import read_sealed, write_sealed
from hpcseg.spec import AnySpec, LabelSpec, TrainSpec

_HEAD = 512  # bytes: models and stores begin with the digest of all that follows
# What is not made of the parents: what the run has to do, and what is known of its attempts.
_KEPT = {
    *(paths.RUN_FILE, paths.JOB_FILE, paths.HEARTBEAT_FILE, paths.ATTEMPTS_FILE, paths.LOG_FOLDER),
    *(paths.CLAIM_FILE, paths.MEETING_FILE, paths.LOCK_FILE, paths.JOB_LOCK_FILE, paths.PARENTS_FILE),
}


def parents_of(spec: AnySpec) -> tuple[Path, ...]:
    """Files of other runs whose networks taught this one, relative to the folder of all runs."""
    if isinstance(spec, LabelSpec):
        return spec.model, *spec.others
    if isinstance(spec, TrainSpec) and spec.pseudo_labelled:
        return (*(source.labels for source in spec.pseudo_labelled if source.labels is not None), *spec.pretrained)
    return ()


def note_parents(run: Path, files: Iterable[Path]) -> bool:
    """Write down what a run is made from, before it is; what was made from other files before is removed.

    Args:
        run: the run directory.
        files: relative to the folder of all runs.

    Returns:
        Whether it was: the run begins anew.
    """
    now = {file.as_posix(): fingerprint(run.parents[1] / file) for file in files}
    before = read_parents(run)
    if before == now:
        return False
    if before:
        _remove_products(run)
    if now:
        write_sealed(run / paths.PARENTS_FILE, now)
    return bool(before)


def read_parents(run: Path) -> dict[str, str | None]:
    """What `note_parents` wrote: fingerprints by file; nothing where it never did.

    Raises:
        BadInput: `parents.json` cannot be read.
    """
    path = f"{run}/{paths.PARENTS_FILE}"
    found: dict[str, str | None] = read_sealed(path, optional=True) or {}
    for file, known in found.items():
        try:
            paths.path_inside(Path(file))
        except ValueError as error:
            raise BadInput(f"{path}: {error}; remove the file") from None
        if not isinstance(known, str | None):
            raise BadInput(f"{path}: {file!r} has no fingerprint; remove the file")
    return found


def fingerprint(path: Path) -> str | None:
    """Of the content of a model or a store, by the digest at its beginning; None where there is none."""
    try:
        with open(path, "rb", opener=regular) as file:
            return hashlib.sha256(file.read(_HEAD)).hexdigest()
    except OSError:
        return None


def _remove_products(run: Path) -> None:
    for name in os.listdir(run):  # noqa: PTH208
        if name in _KEPT or name.startswith("error."):
            continue
        path = run / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
