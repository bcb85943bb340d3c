"""Launches of the merging kernels: the paper's 32 and 32 maps, and odd numbers of them."""

from __future__ import annotations

from hpcseg.networks import merging
from hpcseg.networks.kernels import merge
from tests.offline import Variant

EDGES = ("depth", "height", "width", "coarse_depth", "coarse_height", "coarse_width")
SIZES = dict.fromkeys(EDGES, "i32")


def _of(dtype: str, fine: int, coarse: int, ones: tuple[str, ...] = ()) -> list[Variant]:
    constants, options = {**merge._constants(fine, coarse), **dict.fromkeys(ones, 1)}, {"num_warps": 4}
    sizes = {name: kind for name, kind in SIZES.items() if name not in ones}
    there = dict.fromkeys(("fine", "coarse", "out"), dtype)
    back = dict.fromkeys(("gradient", "of_fine", "of_coarse"), dtype)
    name = f"{dtype[1:]} {fine}+{coarse} maps"
    return [
        Variant(f"concatenate {name}", merge._concatenate, there | sizes, constants, None, options),
        *(
            Variant(
                f"part {name} {of_fine} {of_coarse}",
                merge._part,
                back | sizes,
                {**constants, "OF_FINE": of_fine, "OF_COARSE": of_coarse},
                None,
                options,
            )
            for of_fine, of_coarse in ((True, True), (False, True), (True, False))
        ),
    ]


VARIANTS = [
    *_of("*bf16", 32, 32),
    *_of("*fp16", 32, 32),
    *_of("*fp32", 32, 32),
    *_of("*bf16", 3, 5),
    *_of("*bf16", 1, merging.MAX_MAPS),
    *_of("*fp32", 2, 3, EDGES),  # Triton makes a constant of every 1
    *_of("*fp32", 2, 3, EDGES[3:]),
]
