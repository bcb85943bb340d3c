"""Figures of the room `sweeps`: what whole commands take on ten thousand runs, Python's start and printing included.

Other loads of the room (submission, status) stand in modules of their own and share `write_study` and `Command`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Figure, Measured, at_most, benchmark
from tests.benchmarks.timing import in_turn
from tests.tree import write_tree

RUNS = 10_080  # 3 strategies, 7 subsets, 5 folds, 96 seeds
ROUNDS = 5
MEGABYTE = 1e6
STUDY = """\
[run]
data.dataset = "Task03_Liver"
data.test = "BTCV"
data.foreground = [1, 2]
data.test_foreground = [1]
preprocessing.spacing = 1.0
preprocessing.intensity = "{intensity}"

[[grid]]
name = "main"
strategy = {strategies}
labelled = [2, 4, 8, 16, 32, 64, "all"]
fold = [0, 1, 2, 3, 4]
seed = {seeds}
"""
STRATEGIES = ("baseline", "transfer", "multitask")


def write_study(
    folder: Path, name: str, *, strategies: Sequence[str] = STRATEGIES, seeds: int = 96, intensity: str = "window"
) -> Path:
    """Write a sweep file of 35 runs for each strategy and seed, on datasets in `folder`/data; returns its path.

    With `intensity` "window" autoencoders are shared by folds and subsets, with "percentile" each has its own.
    """
    if not (folder / "data").exists():
        write_tree(folder / "data")
    path = folder / f"{name}.toml"
    path.write_text(STUDY.format(intensity=intensity, strategies=list(strategies), seeds=list(range(seeds))))
    return path


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    cpu_seconds: float  # with its children
    memory: int  # bytes at the peak, without its children


@dataclass(frozen=True)
class Command:
    """`hpcseg` with some words, in a folder."""

    words: Sequence[str]
    folder: Path
    environment: Mapping[str, str] | None = None

    def run(self) -> Cost:
        """Run it, its output thrown away.

        Raises:
            RuntimeError: it failed.
        """
        with tempfile.NamedTemporaryFile("r") as peak:
            silent = [(os.POSIX_SPAWN_OPEN, one, "/dev/null", os.O_WRONLY, 0) for one in (1, 2)]
            words = [sys.executable, "-c", _START, str(self.folder), peak.name, *self.words]
            environment = os.environ if self.environment is None else self.environment
            began = time.perf_counter()
            process = os.posix_spawn(sys.executable, words, environment, file_actions=silent)
            _, status, usage = os.wait4(process, 0)
            seconds = time.perf_counter() - began
            if status:
                raise RuntimeError(f"hpcseg {' '.join(self.words)}: exit status {os.waitstatus_to_exitcode(status)}")
            return Cost(seconds, usage.ru_utime + usage.ru_stime, int(peak.read()))


# What the installed command does, in another folder. It tells its own peak of memory: what the system says of an ended
# process counts the one that it was forked from.
_START = """
import atexit, os, sys
folder, peak = sys.argv[1:3]
del sys.argv[1:3]
os.chdir(folder)
def tell():
    status = open("/proc/self/status").read()
    open(peak, "w").write(str(1024 * int(status.split("VmHWM:")[1].split()[0])))
atexit.register(tell)
from hpcseg.cli import main
main()
"""


@benchmark(
    Figure(
        "plan_10k_s",
        "plan of 10,080 training runs",
        "s",
        f"`hpcseg sweep FILE --plan` as a whole, from Python's start to the last line printed: a grid of 3 strategies, "
        f"7 subsets, 5 folds and 96 seeds on datasets of the paper's size, nothing applied yet; fastest of {ROUNDS}",
        at_most(3.0),
    ),
    Figure(
        "plan_10k_mb",
        "memory of that plan",
        "MB",
        "peak of the command's resident memory",
        at_most(300),
    ),
)
def planning() -> Measured:
    """How long a plan of ten thousand runs takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared, own = write_study(folder, "shared"), write_study(folder, "own", intensity="percentile")
        commands = [
            Command(("sweep", path.name, "--plan", "--on", "local", *more), folder)
            for path, more in ((shared, ()), (own, ()), (shared, ("--json",)))
        ]
        plain, pretrained, json = in_turn(ROUNDS, *(command.run for command in commands))
    best = min(plain, key=lambda cost: cost.seconds)
    return Measured(
        {"plan_10k_s": best.seconds, "plan_10k_mb": max(cost.memory for cost in plain) / MEGABYTE},
        {
            "on the CPU": f"{min(cost.cpu_seconds for cost in plain):.2f} s",
            "with 13,440 pretrainings": f"{min(cost.seconds for cost in pretrained):.2f} s, "
            f"{max(cost.memory for cost in pretrained) / MEGABYTE:.0f} MB",
            "as JSON": f"{min(cost.seconds for cost in json):.2f} s, "
            f"{max(cost.memory for cost in json) / MEGABYTE:.0f} MB",
        },
    )
