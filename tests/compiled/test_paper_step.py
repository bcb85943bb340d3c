"""Whole training steps reach the GPU as machine code, launched as they really are: Triton settles much only then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.offline import SHARED_BYTES

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    "correlate",
    "lag_products",
    "tap_products",
    "sum_up",
    "combine_statistics",
    "normalise",
    "sum_up_gradients",
    "combine_sums",
    "differentiate",
    "gather_kernel",
    "group_maxima",
    "choose",
    "scatter",
    "sum_stamps",
    "sum_windows",
    "sum_stamped_windows",
    "_concatenate",
    "_part",
    "_sum_up",
    "_combine",
    "_differentiate",
}


@pytest.mark.parametrize("architecture, local_bytes", [(90, 0)])
def test_every_kernel_of_a_step_is_launched_and_none_spills(architecture: int, local_bytes: int) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compiled.paper_step", str(architecture)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for found in map(json.loads, done.stdout.splitlines()):
        assert found.keys() == KERNELS
        for kernel, (_, registers, local, shared) in found.items():
            assert registers <= 255 and local <= local_bytes and shared <= SHARED_BYTES[architecture], kernel
