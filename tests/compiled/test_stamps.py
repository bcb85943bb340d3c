"""The sparse decoder's kernels become machine code that keeps everything in registers."""

from __future__ import annotations

import pytest

from tests.offline import SHARED_BYTES, compile_all


@pytest.mark.parametrize("architecture", [80])  # what an H100 is given: test_paper_step.py
def test_the_decoders_kernels_compile_without_spilling(architecture: int) -> None:
    pytest.importorskip("triton")
    for one in compile_all("tests.compiled.stamps", architecture):
        assert one.spilled == 0, one
        assert one.shared <= SHARED_BYTES[architecture], one
