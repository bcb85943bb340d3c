"""The kernels of batch norm and ReLU become machine code without spilling registers."""

from __future__ import annotations

import pytest

from tests.offline import SHARED_BYTES, compile_all


@pytest.mark.parametrize("architecture", [80])  # what an H100 is given: test_paper_step.py
def test_all_launches_compile(architecture):
    pytest.importorskip("triton")
    for compiled in compile_all("tests.compiled.norm", architecture):
        assert compiled.spilled == 0, compiled
        if "32 maps" in compiled.name:  # of which a processor then has four programs at a time
            assert compiled.registers <= 128, compiled
        assert compiled.shared <= SHARED_BYTES[architecture], compiled
