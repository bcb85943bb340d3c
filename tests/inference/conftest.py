"""A scan to be segmented, by one thread: several are slower with networks as small as those of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def image(tiny_dataset: Path) -> Path:
    """26 × 28 × 24 voxels, 2 mm."""
    return tiny_dataset / "imagesTs" / "case_007.nii.gz"
