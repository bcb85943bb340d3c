"""Working through a volume in parts of a few megabytes, so that what a step needs beside the volume stays small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

VOXELS = 1 << 20  # of a part


def slabs(shape: Sequence[int], voxels: int = VOXELS) -> Iterator[slice]:
    """Slices of the first axis, in order, each of at most about `voxels` voxels but at least one index."""
    size = max(1, voxels // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], size):
        yield slice(first, min(first + size, shape[0]))
