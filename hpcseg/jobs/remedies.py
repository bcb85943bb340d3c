"""What to change when a stage ran out of something, in words that fit the run's own configuration. Pure."""

from __future__ import annotations

import errno
from pathlib import Path

from hpcseg.errors import HpcsegError, StageFailed, lack_of_space
from hpcseg.runs.rundir import cause_of
from hpcseg.spec import AnySpec, LabelSpec, PackSpec, PretrainSpec
from hpcseg.training.strategy import strategy_of


def explained(error: BaseException, run: Path, spec: AnySpec, phase: str, on_slurm: bool) -> BaseException:
    """The error with a remedy, where one is known; else the error itself.

    Args:
        error: what a stage raised.
        run: its run directory.
        spec: what it had to do.
        phase: what it was doing.
        on_slurm: whether it is a Slurm job.
    """
    full = None if isinstance(error, StageFailed) else lack_of_space(error)
    if full is None and isinstance(error, HpcsegError):
        return error
    cause = cause_of(error)
    if cause == "cuda-memory":
        words = cuda_words(spec, phase, on_slurm)
    elif full is not None:
        words = disk_words(full, run)
    elif cause == "memory":
        words = f"host memory used up while {phase or 'starting'}: give the job more memory"
    else:
        return error
    failed = StageFailed(cause, words)
    failed.__cause__ = error
    return failed


def cuda_words(spec: AnySpec, phase: str, on_slurm: bool) -> str:
    """What takes GPU memory in a run, and what to reduce."""
    if isinstance(spec, PackSpec):
        return "CUDA out of memory while packing, which needs no GPU"
    config = spec.config
    larger = f"ask for a larger GPU ([slurm.{spec.stage}.flags] constraint)" if on_slurm else "take a larger GPU"
    if phase == "evaluating" or isinstance(spec, LabelSpec):
        return (
            f"CUDA out of memory while {phase}: set a smaller inference.tile than {config.inference.tile or 96}, "
            f"or {larger}; the training is kept"
        )
    size, precision = f"{config.patches.size}³", config.training.precision
    precision = "bfloat16" if precision == "auto" else precision
    if isinstance(spec, PretrainSpec):
        what, reduce = f"batches of {config.autoencoder.batch} patches", ["autoencoder.batch"]
    else:
        batches = strategy_of(config).batches(config)
        what, reduce = f"batches of {' + '.join(map(str, batches.values()))} patches", [*batches]
    reduce.append("network.maps")
    if precision == "float32":
        larger = f"set training.precision = 'bfloat16', or {larger}"
    return f"CUDA out of memory in {what} of {size} in {precision}: reduce {' or '.join(reduce)}, or {larger}"


def disk_words(error: OSError, run: Path) -> str:
    """Which folder has no space, and what to do."""
    folder = Path(error.filename).parent if isinstance(error.filename, str) and error.filename else run
    what = "the quota is used up" if error.errno == errno.EDQUOT else "no space left"
    if error.errno == errno.EFBIG:
        what = "files may not grow any more (limit of file size)"
    return f"{folder}: {what}; free some (what was saved before is kept), then hpcseg sweep goes on from there"
