"""Train 3D segmentation networks on a cluster when few volumes are labelled and many are not."""

__version__ = "0.1.0"
