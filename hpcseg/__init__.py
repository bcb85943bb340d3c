"""Train 3D segmentation networks on a cluster when few volumes are labelled and many are not.

From Python: `load_model`, `read_results` and `Store` (docs/api.md).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcseg.api import Segmentation, Segmenter, Store, load_model, read_results
    from hpcseg.version import __version__

__all__ = ["Segmentation", "Segmenter", "Store", "__version__", "load_model", "read_results"]


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: `import hpcseg` alone takes no time."""
    if name not in __all__:
        raise AttributeError(f"module 'hpcseg' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module("hpcseg.version" if name == "__version__" else "hpcseg.api"), name)
