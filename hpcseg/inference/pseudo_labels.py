"""Pseudo-labels: what trained networks make of packed volumes on average, as a store of labels alone.

A volume is read as it is stored, and its labels are on its own grid: nothing is preprocessed or resampled, and nothing
is packed twice. Each finished case is a store of its own until all are there, as in packing.

Shapes: C foreground classes, Z/Y/X the axes z, y, x of a stored volume.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import Interrupted, StoreError
from hpcseg.files import replacing
from hpcseg.inference.predict import Predictor
from hpcseg.inference.restoring import most_probable
from hpcseg.paths import STORE_FILE
from hpcseg.spec import IGNORED, LabelSpec, PackSpec, runs_root
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel
from hpcseg.training.precision import pick_device
from hpcseg.training.ranks import ALONE, Ranks
from hpcseg.volumes.packed_case import PackedCase, foreground_samples
from hpcseg.volumes.packing import own_parts_folder
from hpcseg.volumes.store import Store, StoredCase
from hpcseg.volumes.writing import StoreWriter


def label(run: Path, spec: LabelSpec, control: Control, ranks: Ranks = ALONE) -> None:
    """Segment the cases of `spec`, and write the store of their labels; ranks take the cases in turn.

    Cases that an interrupted attempt had finished are not segmented again.

    Raises:
        Interrupted: a rank was asked to stop.
        StoreError: the store of the cases is missing or damaged.
    """
    root, names = runs_root(run), spec.source.cases
    folder = own_parts_folder(run / STORE_FILE)
    predictors = [Predictor(TrainedModel.load(root / model), pick_device()) for model in (spec.model, *spec.others)]
    with Store(root / spec.source.store, verify=True) as store:
        written = _as_packed(spec, store, predictors[0].model)
        for first in range(0, len(names), ranks.world):
            control.beat(phase="labelling", step=first, steps=len(names))
            if ranks.any(control.should_stop()):
                raise Interrupted(f"stopped after {first} of {len(names)} cases; the same command goes on from there")
            for index in range(first, len(names))[ranks.rank : ranks.rank + 1]:
                if not _is_store(folder / str(index)):
                    case = _labelled(store.case(names[index]), predictors, spec.confidence, control)
                    with replacing(folder / str(index)) as path, contextlib.closing(StoreWriter(path, written)) as part:
                        part.add(case)
                        part.finish()
            control.reached(min(first + ranks.world, len(names)))
    ranks.wait()
    if ranks.leads:
        with replacing(run / STORE_FILE) as path, contextlib.closing(StoreWriter(path, written)) as whole:
            for index in range(len(names)):
                whole.add_all(folder / str(index))
            whole.finish()
        shutil.rmtree(folder)
    ranks.wait()


def _labelled(case: StoredCase, predictors: Sequence[Predictor], confidence: float, control: Control) -> PackedCase:
    """The labels of one case; nothing else is written of it."""
    slabs = zip(*(one.slabs(case, lambda _done, _tiles: control.pulse()) for one in predictors), strict=True)
    label_ZYX = np.concatenate([decided(np.mean(slabs_CZYX, axis=0), confidence) for slabs_CZYX in slabs])
    samples = foreground_samples(case.name, label_ZYX, predictors[0].model.class_count + 1)
    kept = ("slope", "intercept", "padding", "source_digest", "affine", "file_shape", "crop")
    attributes = {key: np.asarray(value) if isinstance(value, list) else value for key, value in case.attrs.items()}
    attributes = {key: attributes[key] for key in kept} | {"labelled": True}
    return PackedCase(case.name, attributes, {"label": label_ZYX, **samples})


def decided(probability_CZYX: NDArray[np.float32], confidence: float) -> NDArray[np.uint8]:
    """Class of every voxel, as in segmentation; `IGNORED` where that class is less probable than `confidence`."""
    label_ZYX = most_probable(probability_CZYX)
    background_ZYX = 1 - probability_CZYX.sum(axis=0)
    highest_ZYX = np.maximum(probability_CZYX.max(axis=0), background_ZYX)
    label_ZYX[highest_ZYX < confidence] = IGNORED
    return label_ZYX


def _as_packed(spec: LabelSpec, store: Store, model: TrainedModel) -> PackSpec:
    """What the attributes of the labels' store are made from: the other store's, and the model's classes."""
    plain = {"id": spec.id, "dataset": store.attrs["dataset"], "cases": (), "codec": store.codec}
    grid = {"spacing_zyx": store.spacing_zyx, "padding": model.padding, "pyramid_clip": store.pyramid_clip}
    return PackSpec.model_validate({**plain, **grid, "classes": model.classes})


def _is_store(path: Path) -> bool:
    """Whether a case was finished before."""
    try:
        Store(path).close()
    except StoreError:
        return False
    return True
