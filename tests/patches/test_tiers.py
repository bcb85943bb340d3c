from __future__ import annotations

import ctypes
import mmap
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from hpcseg.errors import BadInput
from hpcseg.patches.tiers import FreeMemory, StoreReading, Tier, choose_tier, explain_choice, read_into_memory
from hpcseg.spec import Reading
from tests.waiting import PATIENCE_S

GB = 10**9
SIZES = st.integers(0, 10**13)


@pytest.mark.parametrize(
    ("ram_bytes", "gpu_bytes", "free", "tier"),
    [
        (6 * GB, 6 * GB, FreeMemory(ram=10 * GB), "ram"),
        (6 * GB + 1, 6 * GB, FreeMemory(ram=10 * GB), "streamed"),
        (6 * GB, 6 * GB, FreeMemory(ram=10 * GB, gpu=10 * GB), "gpu"),
        (6 * GB, 6 * GB + 1, FreeMemory(ram=10 * GB, gpu=10 * GB), "ram"),
        (20 * GB, 6 * GB, FreeMemory(ram=10 * GB, gpu=10 * GB), "gpu"),  # few cases of a large store
        (20 * GB, 6 * GB, FreeMemory(ram=10 * GB, gpu=0), "streamed"),
        (1, 1, FreeMemory(ram=0), "streamed"),
    ],
)
def test_the_first_tier_with_enough_memory_is_taken(
    ram_bytes: int, gpu_bytes: int, free: FreeMemory, tier: Tier
) -> None:
    assert choose_tier(ram_bytes, gpu_bytes, free) == tier


@given(SIZES, SIZES, SIZES, SIZES)
def test_more_room_never_means_a_slower_tier(needed: int, ram: int, gpu: int, more: int) -> None:
    order: list[Tier] = ["gpu", "ram", "streamed"]
    less = choose_tier(needed, needed, FreeMemory(ram, gpu))
    assert order.index(choose_tier(needed, needed, FreeMemory(ram + more, gpu + more))) <= order.index(less)
    assert order.index(choose_tier(needed, needed, FreeMemory(ram))) >= order.index(less)


@pytest.mark.parametrize("tier", ["gpu", "ram", "streamed"])
def test_a_tier_that_is_set_is_taken_whatever_the_size(tier: Tier) -> None:
    full = FreeMemory(ram=0, gpu=0)
    assert choose_tier(GB, GB, full, tier) == tier
    assert explain_choice(tier, full, tier) == f"tier = '{tier}' is set"


def test_a_gpu_tier_without_a_gpu_is_refused() -> None:
    with pytest.raises(BadInput, match="tier = 'gpu': there is no GPU"):
        choose_tier(1, 1, FreeMemory(ram=GB), "gpu")


@pytest.mark.parametrize(
    ("free", "tier", "says"),
    [
        (FreeMemory(ram=32 * GB), "streamed", "memory 32.0 GB allows 19.2 GB resident"),
        (FreeMemory(ram=32 * GB, gpu=80 * GB), "gpu", "GPU memory 80.0 GB allows 48.0 GB resident"),
        (
            FreeMemory(ram=32 * GB, gpu=10 * GB),
            "ram",
            "GPU memory 10.0 GB allows 6.0 GB resident, memory 32.0 GB allows 19.2 GB resident",
        ),
    ],
)
def test_the_choice_is_explained(free: FreeMemory, tier: Tier, says: str) -> None:
    assert explain_choice(tier, free) == says


def test_how_a_store_is_read_is_one_line() -> None:
    free = FreeMemory(ram=32 * GB)
    path = Path("/scratch/store.h5")
    why = explain_choice("streamed", free)
    read = StoreReading("Task03_Liver-1.0mm", 20_300_000_000, 131, 131, "streamed", path, why)
    assert read.describe() == (
        "store Task03_Liver-1.0mm: 20.3 GB, 131 cases; streamed from /scratch/store.h5 "
        "(memory 32.0 GB allows 19.2 GB resident)"
    )
    assert read.as_json()["path"] == "/scratch/store.h5"
    assert ", 4 of 131 cases; " in replace(read, cases=4).describe()
    assert ", 1 case; " in replace(read, cases=1, cases_in_all=1).describe()


@pytest.mark.parametrize("folder", ["", "/scratch", "~/x", "$TMPDIR/x", "${TMPDIR}"])
def test_a_folder_for_copies_begins_at_the_root_at_home_or_with_a_variable(folder: str) -> None:
    assert Reading(stage=folder).stage == folder
    with pytest.raises(ValidationError, match="no absolute path"):
        Reading(stage="x" + folder)


@pytest.fixture
def uncached(tmp_path: Path) -> Path:
    """A file of 24 MiB that is not in the system's cache."""
    path = tmp_path / "store.h5"
    path.write_bytes(os.urandom(24 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(path).any():
        pytest.skip("this file system keeps what it was told to forget")
    return path


def cached(path: Path) -> NDArray[np.bool_]:
    """Which pages of a file are in the system's cache."""
    mapped = np.memmap(path, np.uint8, "r")
    pages = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
    places = [ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped)), ctypes.c_void_p(pages.ctypes.data)]
    if ctypes.CDLL(None).mincore(*places):
        pytest.skip("this system does not tell what is cached")
    return pages % 2 == 1


def test_what_is_read_into_memory_is_there(uncached: Path) -> None:
    said, heard = [], threading.Event()

    def say(line: str) -> None:
        said.append(line)
        heard.set()

    with read_into_memory([(uncached, 8 << 20, 12 << 20)], say):
        assert heard.wait(PATIENCE_S)
    pages = cached(uncached).reshape(24, -1)  # of each MiB
    assert pages[8:20].all()
    assert not pages[:4].any()
    assert len(said) == 1 and said[0].startswith("12.6 MB read into memory in ")


def test_leaving_gives_reading_up(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    said: list[str] = []
    with read_into_memory([(path, 0, 1 << 40)], said.append):
        pass
    assert said == []
    assert not any(thread.name == "into-memory" for thread in threading.enumerate())


def test_a_file_that_cannot_be_read_is_only_told_of(tmp_path: Path) -> None:
    said, heard = [], threading.Event()

    def say(line: str) -> None:
        said.append(line)
        heard.set()

    with read_into_memory([(tmp_path / "absent", 0, 10)], say):
        assert heard.wait(PATIENCE_S)
    assert said[0].startswith("not read into memory: ") and "absent" in said[0]
