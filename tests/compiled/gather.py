"""How the gathering kernels are launched for minibatches of the paper's F-Net: four levels and labels."""

from __future__ import annotations

import torch
import triton

from hpcseg.patches.kernels import gather
from tests.offline import Variant


def _variant(dtype: torch.dtype, cubes: int) -> Variant:
    constants = {
        "IMAGE": gather._DTYPES[dtype],
        "CUBES": cubes,
        "CUBES_UP": triton.next_power_of_2(cubes),
        "BLOCK": gather.BLOCK,
        "CUBE": gather.CUBE,
    }
    name = f"gather {cubes} cubes, {dtype}"
    types = {"rows_BCR": "*i64", "windows_B6": "*fp32"}
    return Variant(name, gather.gather_kernel, types, constants, options=gather._OPTIONS)


_COPY = {"COUNT": 40, "COUNT_UP": 64, "BLOCK": gather.BLOCK}
VARIANTS = [
    *[_variant(dtype, 5) for dtype in (torch.float32, torch.bfloat16, torch.float16)],
    _variant(torch.float32, 1),
    Variant("copy", gather.copy_kernel, {"rows_NR": "*i64"}, _COPY, options={"num_warps": gather.WARPS}),
]
