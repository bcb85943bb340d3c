"""Names of all files and folders below the folder of all runs, for every room; what they hold is in
docs/architecture.md.

    <runs>/<stage>/<id>/    one run: the files of the first group
    <runs>/slurm/           arrays of Slurm jobs, each in a folder named by its tag
    <runs>/sweeps/<name>/   what was applied
    <runs>/results/<name>/  what `collect` and `report` write
"""

from __future__ import annotations

from pathlib import Path

LONGEST_NAME = 255  # bytes of a file's name
STAGES = ("pack", "pretrain", "label", "train")

# One run.
RUN_FILE = "run.json"
JOB_FILE = "job.json"
HEARTBEAT_FILE = "heartbeat.json"
CHECKPOINT_FILE = "checkpoint.pt"
PREVIOUS_FILE = "checkpoint.previous.pt"
HISTORY_FILE = "history.jsonl"
KERNELS_FILE = "kernels.json"
ORGAN_FILE = "organ.json"
SIZES_FILE = "sizes.json"
STORE_FILE = "store.h5"
MODEL_FILE = "model.pt"
TRAINING_FILE = "training.json"
EVALUATION_FILE = "evaluation.jsonl"
RANK_EVALUATION_FILE = "evaluation.{}.jsonl"  # by rank, but for rank 0
PREDICTIONS_FOLDER = "predictions"
DONE_FILE = "done.json"
RESULT_FILE = "result.json"
PARENTS_FILE = "parents.json"
ERROR_FILE = "error.json"
EARLIER_ERROR_FILE = "error.{}.json"  # by number
ATTEMPTS_FILE = "attempts.jsonl"
LOG_FOLDER = "log"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_FOLDER = "wandb"
CLAIM_FILE = ".claim"
MEETING_FILE = ".ranks.json"
LOCK_FILE = ".lock"  # of a run, and of the folder of all runs
JOB_LOCK_FILE = ".job.lock"

# Arrays of Slurm jobs.
ARRAYS_FOLDER = "slurm"
ARRAY_FILE = "array.json"
NODES_FILE = "nodes.jsonl"

# Applied sweeps, and their results.
SWEEPS_FOLDER = "sweeps"
SWEEP_FILE = "sweep.json"
RUNS_FILE = "runs.json"
POOL_LOG = "pool.log"
RESULTS_FOLDER = "results"


def plain_name(name: str) -> str:
    """A name that was read and is to be one part of a path: of a case, a run, a sweep, a table.

    >>> plain_name("case_001 (left)")
    'case_001 (left)'

    Raises:
        ValueError: it could lead elsewhere.
    """
    too_long = len(name.encode(errors="replace")) > LONGEST_NAME
    if name in {"", ".", ".."} or "/" in name or "\0" in name or too_long:
        raise ValueError(f"{name[:LONGEST_NAME]!r} cannot be the name of a file")
    return name


def path_inside(path: Path) -> Path:
    """A path that was read, relative to the folder of all runs, which it does not leave.

    Raises:
        ValueError: it does.
    """
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in str(path):
        raise ValueError(f"{str(path)!r} leads out of the folder of runs")
    return path


def array_folder(runs_root: Path, tag: str) -> Path:
    """Where the record, script, pickles and output of an array of Slurm jobs are."""
    return runs_root / ARRAYS_FOLDER / tag


def sweep_folder(runs_root: Path, name: str) -> Path:
    """Where the record of an applied sweep is."""
    return runs_root / SWEEPS_FOLDER / name
