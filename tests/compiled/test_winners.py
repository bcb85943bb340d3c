"""The winners' kernels become machine code that keeps everything in registers."""

from __future__ import annotations

import pytest

from tests.offline import SHARED_BYTES, compile_all


@pytest.mark.parametrize("architecture", [80])  # what an H100 is given: test_paper_step.py
def test_the_winners_kernels_compile_without_spilling(architecture: int) -> None:
    pytest.importorskip("triton")
    for one in compile_all("tests.compiled.winners", architecture):
        assert one.spilled == 0, one
        assert one.shared <= SHARED_BYTES[architecture], one
        if one.name.startswith("group_maxima") and "256×" in one.name:
            assert one.registers <= 128, (
                f"reading the code, which is most of the time, needs more loads in flight: {one}"
            )
