"""The one place that knows how a device is timed and watched: a GPU by its events and its profiler, a CPU by the clock.

The benchmarks ask a `Machine` and nothing else, so that a rehearsal on a CPU runs the very same lines.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.hardware import describe as describe_host
from tests.benchmarks.hardware import package_version
from tests.gpu.activity import GPU_WORK, Interval, device_intervals, packed

Work = Callable[[], object]

TRACE_BYTES = 4 << 20  # of one that is kept
FLUSH_BYTES = 256 << 20  # written between rounds: several times any GPU's L2
CYCLES_PER_S = 2e9  # of a GPU's clock, about
LONGEST_HOLD_S = 0.5  # in which the host gets ahead


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median of all rounds, and the fastest and slowest."""

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Timing:
        return cls(median(rounds), min(rounds), max(rounds))


@dataclass
class Activity:
    """What the device did while it was watched."""

    intervals: list[Interval] = field(default_factory=list)


class Machine:
    """A CPU; `Gpu` overrides what is different there.

    Args:
        patience_s: about how long one timing may take.
    """

    device = torch.device("cpu")
    _traced = frozenset({"cpu_op"})

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s

    def milliseconds(self, *works: Work) -> Timing:
        """Time one call; `works` are the same work on different inputs, and take turns."""
        self._warm(works)
        one = max(self._once(works[0]), 1e-6)
        rounds = int(min(max(self.patience_s / one, 3), 50))
        return Timing.of(self._rounds([works[n % len(works)] for n in range(rounds)]))

    def per_call(self, work: Work, count: int, rounds: int = 3) -> Timing:
        """Time `count` calls in a row, `rounds` times; milliseconds of one: what the host waits for counts, too."""
        self._warm([work])
        found = []
        for _ in range(rounds):
            self.synchronize()
            begin = time.perf_counter()
            for _ in range(count):
                work()
            self.synchronize()
            found.append(1e3 * (time.perf_counter() - begin) / count)
        return Timing.of(found)

    def synchronize(self) -> None:
        """Wait for the device."""

    def forget_peak(self) -> None:
        """Begin anew to look for the peak of memory."""

    def peak_gb(self) -> float | None:
        """The most memory in use since `forget_peak`, 10⁹ bytes; None where that is not known."""
        return None

    def free(self) -> None:
        """Give back memory that nothing holds."""

    @contextlib.contextmanager
    def watched(self, kept: Path | None = None) -> Iterator[Activity]:
        """Note what the device does meanwhile; the activity is filled in on the way out, and its trace may be kept."""
        activity = Activity()
        with torch.profiler.profile(activities=self._activities()) as profile:
            yield activity
            self.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profile.export_chrome_trace(str(path))
            trace = json.loads(path.read_text(errors="replace"), strict=False)
        activity.intervals = device_intervals(trace, self._traced)
        if kept is not None:
            kept.write_bytes(packed(trace, TRACE_BYTES, self._traced))

    def describe(self) -> dict[str, str]:
        """Device, machine, versions, date."""
        return describe_host() | {
            "triton": package_version("triton"),
            "date": datetime.date.today().isoformat(),
        }

    def _activities(self) -> list[Any]:
        return [torch.profiler.ProfilerActivity.CPU]

    def _warm(self, works: Sequence[Work]) -> None:
        for work in works:
            work()
        self.synchronize()

    def _once(self, work: Work) -> float:
        """Seconds of one call, roughly."""
        begin = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - begin

    def _rounds(self, works: Sequence[Work]) -> list[float]:
        return [1e3 * self._once(work) for work in works]


class Gpu(Machine):
    """The GPU of this process."""

    device = torch.device("cuda")
    _traced = GPU_WORK

    def __init__(self, patience_s: float) -> None:
        super().__init__(patience_s)
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.device)

    def synchronize(self) -> None:
        """Wait for all streams; raises where a kernel failed."""
        torch.cuda.synchronize()

    def forget_peak(self) -> None:
        """Begin anew to look for the peak of memory."""
        self.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        """The most memory that torch took since `forget_peak`, recorded graphs' too, without this class', 10⁹ bytes."""
        return (torch.cuda.max_memory_reserved() - FLUSH_BYTES) / 1e9

    def free(self) -> None:
        """Give back memory that nothing holds."""
        torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        """Device, machine, versions, date."""
        properties = torch.cuda.get_device_properties(0)
        cudnn = torch.backends.cudnn.version() or 0
        found = super().describe()
        return {
            "gpu": properties.name,
            "multiprocessors": str(properties.multi_processor_count),
            "GPU memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "driver": driver(),
            "CUDA": str(torch.version.cuda),
            "cuDNN": f"{cudnn // 10000}.{cudnn % 10000 // 100}.{cudnn % 100}",
            **{name: value for name, value in found.items() if name != "gpu"},
        }

    def _activities(self) -> list[Any]:
        return [torch.profiler.ProfilerActivity.CUDA]

    def _rounds(self, works: Sequence[Work]) -> list[float]:
        """By events, with the caches cold, and with the host ahead of the device so that launches cost nothing."""
        self.synchronize()
        asked = time.perf_counter()
        works[0]()
        asked = 2 * (time.perf_counter() - asked) + 1e-4  # seconds of the host's for one round
        self.synchronize()
        works = works[: max(3, int(LONGEST_HOLD_S / asked))]
        begins = [torch.cuda.Event(enable_timing=True) for _ in works]
        ends = [torch.cuda.Event(enable_timing=True) for _ in works]
        if hasattr(torch.cuda, "_sleep"):
            torch.cuda._sleep(int(CYCLES_PER_S * min(asked * len(works), LONGEST_HOLD_S)))
        for work, begin, end in zip(works, begins, ends, strict=True):
            self._flush.zero_()
            begin.record()
            work()
            end.record()
        self.synchronize()
        return [begin.elapsed_time(end) for begin, end in zip(begins, ends, strict=True)]


def machine_for(kind: str, patience_s: float) -> Machine:
    """The machine of `kind`: "cuda" or "cpu"."""
    return Gpu(patience_s) if kind == "cuda" else Machine(patience_s)


def driver() -> str:
    """Version of NVIDIA's driver; "unknown" where it does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    question = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(question, capture_output=True, text=True, check=False)
    return asked.stdout.split("\n")[0].strip() or "unknown" if asked.returncode == 0 else "unknown"
