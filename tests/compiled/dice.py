"""Launches of the kernels of Dice loss and cross-entropy: the paper's two classes, and more of them."""

from __future__ import annotations

import torch

from hpcseg.networks.kernels import dice
from tests.offline import Variant

NAMES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


def _of(dtype: torch.dtype, classes: int, layout: torch.memory_format) -> list[Variant]:
    logits = torch.empty(2, classes, 3, 3, 3, memory_format=layout)
    constants, options = dice._constants(logits), {"num_warps": 4}
    given = {"logits": NAMES[dtype], "label": "*i64"}
    slopes = dict.fromkeys(("of_cross_entropy", "of_overlap", "of_total"), "*fp32")
    forward = {**given, "partial": "*fp32", "voxels": "i32", "chunk": "i32", "programs": "i32"}
    backward = {**given, **slopes, "out": NAMES[dtype], "voxels": "i32", "count": "i32"}
    name = f"{NAMES[dtype][1:]} {classes} classes {layout}"
    return [
        Variant(f"sum_up {name}", dice._sum_up, forward, constants, None, options),
        Variant(f"differentiate {name}", dice._differentiate, backward, constants, None, options),
    ]


SUMS = dict.fromkeys(("partial", "cross_entropy", "overlap", "total"), "*fp32")
COUNTS = {"count": "i32", "programs": "i32", "classes": "i32"}
COMBINE = Variant("combine", dice._combine, SUMS | COUNTS, {"SIZE": dice.COMBINED}, None, {"num_warps": 4})
ONES = ("voxels", "programs", "count")
VARIANTS = [
    *(
        variant
        for dtype in NAMES
        for classes, layout in (
            (2, torch.channels_last_3d),
            (2, torch.contiguous_format),
            (3, torch.channels_last_3d),
            (16, torch.channels_last_3d),
        )
        for variant in _of(dtype, classes, layout)
    ),
    COMBINE,
    *(
        # Triton makes a constant of every 1.
        Variant(
            f"{one.name} of 1",
            one.kernel,
            {name: kind for name, kind in one.types.items() if name not in ONES},
            {**one.constants, **{name: 1 for name in ONES if name in one.types}},
            None,
            one.options,
        )
        for layout in (torch.channels_last_3d, torch.contiguous_format)
        for one in (*_of(torch.float32, 3, layout), COMBINE)
    ),
]
