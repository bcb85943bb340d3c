"""Boxes one by one, for the tests."""

from __future__ import annotations

from types import SimpleNamespace

from hpcseg.patches.reading import read_sample


def read_box(case, level, corner_3, size, clip, out=None):
    """Read a cube of one level, `size` voxels of that level, as the only box of a patch; written to `out` if given."""
    geometry = SimpleNamespace(inputs={level: size}, origins={level: 0})
    (box,) = read_sample(case, geometry, corner_3, (level,), clip, None if out is None else [out])
    return box
