"""The convolutions' kernels become machine code that keeps its sums in registers and uses the tensor cores."""

from __future__ import annotations

import pytest

from tests.offline import SHARED_BYTES, compile_all

pytest.importorskip("triton")


def test_on_hopper_sums_stay_in_registers_and_warp_groups_multiply() -> None:
    for one in compile_all("tests.compiled.convolution", 90):
        assert one.spilled == 0, one
        assert one.shared <= SHARED_BYTES[90], one
        assert (one.wgmma > 0) == ("fp32" not in one.name or "older" in one.name), one
        if "M128" in one.name or "P64" in one.name:  # two at once on a multiprocessor
            assert one.shared + 1024 <= (228 << 10) // 2, one


def test_on_ampere_few_registers_spill() -> None:
    for one in compile_all("tests.compiled.convolution", 80):
        assert one.shared <= SHARED_BYTES[80], one
        assert (one.mma > 0) == ("fp32" not in one.name), one
        assert one.spilled <= 256 or "P64" in one.name, one  # which is launched on Hopper only
