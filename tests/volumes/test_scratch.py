"""Volumes in parts, and large arrays in files that behave as those in memory."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.volumes import scratch

MIB = 1 << 20


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of temporary files; arrays of more than 1 MiB lie in it."""
    monkeypatch.setattr(scratch, "LARGEST", MIB)
    monkeypatch.setattr(scratch, "in_memory", lambda _: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@given(shape=st.lists(st.integers(0, 40), min_size=1, max_size=4), voxels=st.integers(1, 5000))
def test_slabs_cover_the_first_axis_once_and_are_as_small_as_asked(shape: list[int], voxels: int) -> None:
    parts = list(scratch.slabs(shape, voxels))
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(shape[0]))
    for part in parts:
        assert part.stop - part.start == 1 or (part.stop - part.start) * math.prod(shape[1:]) <= voxels


def mapped_files(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


def test_only_large_arrays_lie_in_files_and_go_with_them(on_disk: Path) -> None:
    small, large = scratch.empty((MIB,), np.uint8), scratch.empty((3, MIB), np.int16)
    assert mapped_files(on_disk) == 1
    assert list(on_disk.iterdir()) == []
    assert (large.shape, large.dtype, large.flags.writeable) == ((3, MIB), np.int16, True)
    del small, large
    assert mapped_files(on_disk) == 0


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_zeros_are_zeros(on_disk: Path, size: int) -> None:
    assert not scratch.zeros((2, size), np.uint8).any()


def test_released_pages_leave_the_process_and_keep_their_values(on_disk: Path) -> None:
    array = scratch.empty((64 * MIB,), np.uint8)
    array[:] = 7
    held = resident()
    scratch.release(array[5:].reshape(-1, 1))
    assert held - resident() > 60 * MIB
    assert (array == 7).all()


def test_of_arrays_in_memory_nothing_is_released() -> None:
    array = np.ones(4)
    scratch.release(array[1:])
    assert array.tolist() == [1, 1, 1, 1]


def test_without_room_on_the_disk_the_array_is_in_memory(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert scratch.empty((2 * MIB,), np.uint8).shape == (2 * MIB,)
    assert mapped_files(on_disk) == 0


def resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
