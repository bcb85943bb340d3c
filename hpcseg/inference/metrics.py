"""How well a mask agrees with its reference.

Shapes: masks are arrays of class indices on one grid, any shape, 0 the background.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(mask: NDArray[np.uint8], reference: NDArray[np.uint8], label: int = 1) -> float | None:
    """Dice similarity coefficient of one class, 2 |A ∩ B| / (|A| + |B|) (paper 3.1.3).

    None where the class is in neither, because the ratio is then undefined; 0 where it is in one only.
    """
    in_mask, in_reference = mask == label, reference == label
    total = np.count_nonzero(in_mask) + np.count_nonzero(in_reference)
    return None if total == 0 else 2 * np.count_nonzero(in_mask & in_reference) / total
