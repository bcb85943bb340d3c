"""How the convolutions' kernels are launched in the paper's F-Net: 5³ taps, 1, 32 and 64 input maps, 32 maps."""

from __future__ import annotations

from hpcseg.networks.kernels import convolution, convolution_kernels, convolution_weight_kernels
from hpcseg.networks.kernels.convolution import Shape
from tests.offline import Variant

EDGE = 5
_SIZES = dict.fromkeys((*convolution_kernels.SIZES, "maps"), "i32")
_MORE_SIZES = _SIZES | dict.fromkeys(("batch", "out_width", "factor", "digits"), "i32")
_ALIGNED = ("source", "weight", "out", "gradient", "partial", "entries", "maps")  # maps: 32 or 64


def _aligned(types: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name in _ALIGNED if name in types)


def _correlate(kind: str, inputs: int, maps: int, pad: int, tile: Shape) -> Variant:
    types = {"source": f"*{kind}", "weight": f"*{kind}", "out": f"*{kind}", "total": "i32", "steps": "i32", **_SIZES}
    constants = convolution.correlation_constants(EDGE, inputs, maps, pad, tile)
    name = f"{'input gradient' if pad else 'forward'} {inputs} {kind} M{tile.rows}"
    return Variant(name, convolution_kernels.correlate, types, constants, _aligned(types), {"num_warps": tile.warps})


def _lag_products(kind: str, inputs: int, shape: Shape) -> Variant:
    types = {"source": f"*{kind}", "gradient": f"*{kind}", "partial": "*fp32", "entries": "*i32", **_MORE_SIZES}
    constants = convolution.lag_constants(EDGE, inputs, 32, shape)
    name = f"weight gradient {inputs} {kind} P{shape.rows}"
    return Variant(
        name, convolution_weight_kernels.lag_products, types, constants, _aligned(types), {"num_warps": shape.warps}
    )


def _tap_products(kind: str, shape: Shape) -> Variant:
    types = {"source": f"*{kind}", "gradient": f"*{kind}", "partial": "*fp32", **_MORE_SIZES}
    constants = convolution.tap_constants(EDGE, 1, 32, shape)
    name = f"weight gradient 1 {kind}"
    return Variant(
        name, convolution_weight_kernels.tap_products, types, constants, _aligned(types), {"num_warps": shape.warps}
    )


_TILES = (convolution.TILE, convolution.WIDE_TILE)
VARIANTS = [
    *[_correlate("bf16", inputs, 32, 0, tile) for inputs in (32, 64) for tile in _TILES],
    *[_correlate("bf16", 32, 32, EDGE - 1, tile) for tile in _TILES],
    _correlate("bf16", 1, 32, 0, convolution.TILE),
    _correlate("fp16", 32, 32, 0, convolution.TILE),
    _lag_products("bf16", 32, convolution.SUM),
    _lag_products("bf16", 64, convolution.SUM),
    _lag_products("bf16", 32, convolution.OLDER_SUM),
    _tap_products("bf16", convolution.FEW_SUM),
    _correlate("fp32", 32, 32, 0, convolution.EXACT_TILE),
    _correlate("fp32", 32, 32, EDGE - 1, convolution.EXACT_TILE),
    _correlate("fp32", 1, 32, 0, convolution.EXACT_TILE),
    _lag_products("fp32", 32, convolution.EXACT_SUM),
    _tap_products("fp32", convolution.EXACT_FEW_SUM),
]
