"""A rehearsal of interruptions: a short copy of a run, killed and stopped at random steps, has to end as if it had not.

The copy lies beside the stages, <runs>/rehearsal-<id>-.../{undisturbed, interrupted}/; the run itself and what it needs
(stores, autoencoders) are only read. Every attempt is a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpcseg.config import LoggingConfig
from hpcseg.errors import BadInput, HpcsegError, Interrupted, TrainingError
from hpcseg.files import write_text
from hpcseg.heartbeat import read_heartbeat
from hpcseg.paths import HISTORY_FILE, KERNELS_FILE, RUN_FILE, TRAINING_FILE
from hpcseg.seals import read_sealed
from hpcseg.spec import PretrainSpec, Reading, TrainSpec, read_spec, runs_root, spec_digest, spec_text
from hpcseg.training import stages
from hpcseg.training.checkpoint import load_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.precision import be_deterministic

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
LOG = "log.txt"
_POLL_S = 0.002
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Interruption:
    """One interruption: the step that was done when the signal was sent, and the one that the next attempt began from.

    `resumed_from` is None where the signal came too late: the run had ended.
    """

    signal: str
    step: int
    resumed_from: int | None


@dataclass(frozen=True)
class Rehearsal:
    """What came out: `difference` names what differed first and `folder` keeps both runs, or both are None."""

    steps: int
    interruptions: tuple[Interruption, ...]
    difference: str | None
    folder: Path | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self) | {"folder": None if self.folder is None else str(self.folder)}


def rehearse(
    run: Path,
    *,
    epochs: int = 3,
    steps: int = 5,
    interruptions: int = 5,
    seed: int = 0,
    threads: int = 1,
    progress: OnStep | None = None,
) -> Rehearsal:
    """Train a short copy of a run twice, undisturbed and interrupted, and compare the ends to the bit.

    Compared are the history, the weights, and all that the last checkpoint holds but the time it took.

    Args:
        run: directory of a training run or a pretraining; its ancestors have to be done.
        epochs, steps: the copy has so many epochs of so many steps, or as few as the run; each is saved.
        interruptions: signals in all, at different steps.
        seed: of the steps and of which signal is sent: SIGKILL, SIGTERM or USR2.
        threads: CPU threads of each attempt.
        progress: called with (steps done, steps in all, what is going on).

    Raises:
        BadInput: the run is a pack; there are more interruptions than steps; an ancestor is missing.
        TrainingError: an attempt failed for itself; the folder is kept, the message says where.
    """
    spec = read_spec(run)
    if not isinstance(spec, PretrainSpec | TrainSpec):
        raise BadInput(f"{run}: is of the stage {spec.stage}; only runs that train can be rehearsed")
    short = shortened(spec, epochs, steps)
    total = short.length.epochs * short.length.steps
    most = len(_places(total))
    if interruptions > most:
        raise BadInput(f"--interruptions {interruptions}: the copy's {total} steps have room for {most}; add --epochs")
    folder = Path(tempfile.mkdtemp(prefix=f"rehearsal-{spec.id}-", dir=runs_root(run)))
    try:
        play = _Play(short, folder, total, threads, progress)
        found = play.interrupted(random.Random(seed), interruptions, play.undisturbed())
        difference = compare(folder / "undisturbed", folder / "interrupted")
    except BaseException as error:
        if isinstance(error, TrainingError):
            raise TrainingError(f"{error}; both runs are kept in {folder}") from None
        shutil.rmtree(folder)
        raise
    if difference is None:
        shutil.rmtree(folder)
    return Rehearsal(total, found, difference, None if difference is None else folder)


def shortened(spec: PretrainSpec | TrainSpec, epochs: int, steps: int) -> PretrainSpec | TrainSpec:
    """The specification with at most so many epochs and steps, saved after every epoch."""
    config = spec.config
    often = {"validation_steps": 1, "checkpoint_epochs": 1, "dsc_epochs": 0}
    parts: dict[str, Any] = {"training": config.training.model_copy(update=often), "autoencoder": config.autoencoder}
    for name, part in parts.items():
        lengths = {"epochs": min(epochs, part.epochs), "steps": min(steps, part.steps)}
        parts[name] = part.model_copy(update=lengths)
    return spec.model_copy(update={"config": config.model_copy(update=parts | {"logging": LoggingConfig()})})


class _Play:
    """Runs attempts in processes forked from a server that has imported torch, and sends them signals."""

    def __init__(
        self, spec: PretrainSpec | TrainSpec, folder: Path, total: int, threads: int, progress: OnStep | None
    ) -> None:
        self._folder, self._total, self._threads, self._progress = folder, total, threads, progress
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        for name in ("undisturbed", "interrupted"):
            (folder / name).mkdir()
            write_text(folder / name / RUN_FILE, spec_text(spec))

    def undisturbed(self) -> float:
        """Train to the end; returns the seconds of a step."""
        run = self._folder / "undisturbed"
        self._until(self._start(run), run, self._total + 1, 0)
        seconds: float = read_sealed(run / TRAINING_FILE)["seconds"]
        return seconds / self._total

    def interrupted(self, draw: random.Random, count: int, step_s: float) -> tuple[Interruption, ...]:
        """Train with `count` interruptions, each anywhere within its step, and then to the end."""
        run, chosen = self._folder / "interrupted", self._folder / "undisturbed" / KERNELS_FILE
        if chosen.exists():
            shutil.copy(chosen, run)  # measured anew, others might be faster, which round otherwise
        found = []
        for target in sorted(draw.sample(_places(self._total), count)):
            number = draw.choice(SIGNALS)
            process = self._start(run)
            step = self._until(process, run, target, self._total)
            time.sleep(draw.uniform(0, step_s))
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)
            self._joined(process, run, number)
            ended = process.exitcode == 0
            found.append(Interruption(number.name, step, None if ended else _saved_step(run)))
            if ended:
                return tuple(found)
        self._until(self._start(run), run, self._total + 1, self._total)
        return tuple(found)

    def _start(self, run: Path) -> ForkServerProcess:
        process = self._context.Process(target=_attempt, args=(str(run), self._threads), daemon=True)
        process.start()
        return process

    def _until(self, process: ForkServerProcess, run: Path, target: int, before: int) -> int:
        """Wait until the process has done step `target` or has ended; returns the last step of its heartbeats."""
        step = 0
        while step < target and process.is_alive():
            time.sleep(_POLL_S)
            beat = read_heartbeat(run)
            if beat is not None and beat.pid == process.pid and beat.epoch and beat.step > step:
                step = beat.step
                if self._progress is not None:
                    self._progress(before + step, 2 * self._total, run.name)
        if step < target:
            self._joined(process, run)
        return step

    def _joined(self, process: ForkServerProcess, run: Path, sent: signal.Signals | None = None) -> None:
        """Wait for the end of the process; it may end well, or by the signal that it was sent."""
        process.join()
        if process.exitcode in ({0} if sent is None else {0, Interrupted.exit_code, -sent}):
            return
        lines = [line for line in (run / LOG).read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "no output"
        if process.exitcode == BadInput.exit_code:
            raise BadInput(last)
        raise TrainingError(f"{run.name}: the process ended with {process.exitcode}: {last}")


def _places(total: int) -> range:
    """Steps after which a signal may be sent: none so near the end that the run could be over before it arrives."""
    return range(1, total - total // 10)


def _attempt(run_dir: str, threads: int) -> None:
    """One attempt, as a job makes it: USR2 and SIGTERM ask to save and stop."""
    run = Path(run_dir)
    with (run / LOG).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    control = Control(run, interval_s=0.0)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: control.ask_to_stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that rehearses
    torch.set_num_threads(threads)
    be_deterministic()
    spec, reading = read_spec(run), Reading(tier="streamed")
    try:
        assert isinstance(spec, PretrainSpec | TrainSpec)
        stages.train(run, spec, control, reading)
    except HpcsegError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


def _saved_step(run: Path) -> int:
    """The step that the next attempt begins from."""
    spec = read_spec(run)
    state = load_checkpoint(run, spec_digest(spec))
    if state is None:
        return 0
    assert isinstance(spec, PretrainSpec | TrainSpec)
    return int(state["progress"]["epoch"] * spec.length.steps + state["progress"]["step"])


def compare(one: Path, other: Path) -> str | None:
    """What differs first between two trained runs that still have their checkpoints; None if nothing does."""
    return first_difference(_history(one), _history(other), "history") or first_difference(
        _state(one), _state(other), "checkpoint"
    )


def first_difference(one: Any, other: Any, where: str) -> str | None:
    """Name of the first value in which two nested states differ by a bit; None if they do not.

    `where` is their common name; the parts of it are joined by dots.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(one) != list(other):
            return f"{where}: other keys"
        pairs = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} entries"
        pairs = [(f"{where}.{index}", *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        return _tensor_difference(one, other, where)
    else:
        return None if repr(one) == repr(other) else f"{where}: {one!r} and {other!r}"
    return next((found for name, a, b in pairs if (found := first_difference(a, b, name)) is not None), None)


def _tensor_difference(one: Tensor, other: Tensor, where: str) -> str | None:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{where}: {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
    if torch.equal(*(tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other))):
        return None
    gap = (one.double() - other.double()).abs()
    return f"{where}: {int((gap != 0).sum())} of {gap.numel()} values, by at most {float(gap.max()):.3g}"


def _history(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / HISTORY_FILE).read_text(encoding="utf-8").splitlines()]


def _state(run: Path) -> dict[str, Any] | None:
    state = load_checkpoint(run)
    if state is not None:
        state["progress"] = {name: value for name, value in state["progress"].items() if not name.endswith("seconds")}
    return state
