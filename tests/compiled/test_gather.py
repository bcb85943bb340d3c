"""The gathering kernels become machine code without spilling, and without fusing what must be rounded twice."""

from __future__ import annotations

import pytest

from tests.offline import ARCHITECTURES, compile_all

pytest.importorskip("triton")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gathering_kernels_compile(architecture):
    for kernel in compile_all("tests.compiled.gather", architecture):
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= 128, kernel  # two blocks of eight warps on a multiprocessor, at least
        assert kernel.shared <= 16 << 10, kernel
