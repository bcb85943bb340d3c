"""Real stores for the tests: arrays are written as NIfTI at 1 mm and packed."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from hpcseg.spec import CaseRef, PackSpec
from hpcseg.volumes.packing import pack
from hpcseg.volumes.store import Store


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Return a function that packs {name: (volume_zyx, label_zyx or None)} and opens the store."""
    opened = []

    def make(volumes, *, padding=-1000.0, clip=(-200.0, 400.0), classes=()):
        folder = tmp_path_factory.mktemp("store")
        cases = []
        for name, (volume_zyx, label_zyx) in volumes.items():
            image, label = folder / f"{name}.nii", folder / f"{name}_label.nii"
            nibabel.save(nibabel.Nifti1Image(volume_zyx.T.astype(np.float32), np.eye(4)), image)
            if label_zyx is not None:
                nibabel.save(nibabel.Nifti1Image(label_zyx.T.astype(np.uint8), np.eye(4)), label)
            cases.append(CaseRef(name=name, image=image, label=None if label_zyx is None else label))
        spec = PackSpec(
            id="test",
            dataset="test",
            cases=tuple(cases),
            spacing_zyx=(1.0, 1.0, 1.0),
            classes=classes,
            padding=padding,
            pyramid_clip=clip,
        )
        pack(spec, folder / "store.h5")
        opened.append(Store(folder / "store.h5"))
        return opened[-1]

    yield make
    for store in opened:
        store.close()
