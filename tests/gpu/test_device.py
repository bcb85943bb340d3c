"""What only a GPU runs, with a GPU made of CPU parts: events are the clock's, the rest is written down."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch

from tests.gpu import device
from tests.gpu.device import Gpu
from tests.waiting import Clock

CLOCK = Clock()


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = CLOCK.now

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at)


class Pretended(Gpu):
    device = torch.device("cpu")
    _traced = frozenset({"cpu_op"})

    def _activities(self) -> list[object]:
        return [torch.profiler.ProfilerActivity.CPU]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cycles that the device was held for."""
    cycles: list[int] = []
    monkeypatch.setattr(device, "FLUSH_BYTES", 1 << 10)
    monkeypatch.setattr(device, "time", CLOCK)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", cycles.append, raising=False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return cycles


def test_rounds_are_timed_by_events_while_the_device_is_held(held: list[int]) -> None:
    timing = Pretended(0.05).milliseconds(lambda: CLOCK.sleep(0.002))
    assert timing.median == pytest.approx(2)
    assert len(held) == 1
    assert held[0] > 0.002 * device.CYCLES_PER_S


def test_the_host_is_never_held_for_long(held: list[int]) -> None:
    slow = Pretended(10.0)
    assert len(slow._rounds([lambda: CLOCK.sleep(0.2)] * 50)) == 3
    assert held[0] <= device.LONGEST_HOLD_S * device.CYCLES_PER_S


def test_a_gpu_is_watched_like_a_cpu(held: list[int]) -> None:
    matrix = torch.randn(8, 8)
    with Pretended(0.01).watched() as activity:
        matrix @ matrix
    assert activity.intervals


def test_memory_is_what_torch_took_without_the_machine_s_own(held: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: done.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3_000_001_024)
    machine = Pretended(0.01)
    machine.forget_peak()
    machine.free()
    assert done == ["emptied", "reset", "emptied"]
    assert machine.peak_gb() == 3.0


def test_a_gpu_is_described(held: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Abacus H", multi_processor_count=132, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(device, "driver", lambda: "580.1")
    found = Pretended(0.01).describe()
    assert list(found)[:6] == ["gpu", "multiprocessors", "GPU memory", "driver", "CUDA", "cuDNN"]
    assert (found["gpu"], found["GPU memory"], found["driver"], found["cuDNN"]) == (
        "Abacus H",
        "80 GiB",
        "580.1",
        "9.10.2",
    )
    assert {"cpu", "cores", "torch", "triton", "date"} <= found.keys()


@pytest.mark.parametrize(
    ("said", "status", "driver"), [("580.159\n580.159\n", 0, "580.159"), ("", 0, "unknown"), ("x", 9, "unknown")]
)
def test_the_driver_is_asked_for(monkeypatch: pytest.MonkeyPatch, said: str, status: int, driver: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi")
    answer = subprocess.CompletedProcess([], status, stdout=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert device.driver() == driver
