"""The model of a run that still trains: the best weights that its checkpoint holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.paths import CHECKPOINT_FILE, MODEL_FILE, PREVIOUS_FILE, RUN_FILE
from hpcseg.spec import TrainSpec, read_spec, runs_root, spec_digest
from hpcseg.training.checkpoint import load_checkpoint
from hpcseg.training.model import TrainedModel
from hpcseg.training.stores import clip_window
from hpcseg.volumes.store import Store


def load_any(path: Path) -> TrainedModel:
    """The model of a file or a run directory, also of a run that still trains.

    Raises:
        BadInput: there is none; see `TrainedModel.load` and `model_so_far`.
    """
    if is_under_way(path):
        try:
            return model_so_far(path)
        except BadInput:
            if is_under_way(path):
                raise  # else it has ended just now
    return TrainedModel.load(path)


def is_under_way(run: Path) -> bool:
    """Whether a run directory holds a checkpoint, of which one may be about to be replaced, and no model yet."""
    saved = (run / CHECKPOINT_FILE).exists() or (run / PREVIOUS_FILE).exists()
    return (run / RUN_FILE).exists() and saved and not (run / MODEL_FILE).exists()


def model_so_far(run: Path) -> TrainedModel:
    """The model that the run would leave if it ended now; `provenance["epochs_so_far"]` says how far it is.

    Raises:
        BadInput: the run trains no segmentation, has finished no epoch, or its checkpoint cannot be read.
        StoreError: the store of its labelled cases is missing or damaged.
    """
    spec = read_spec(run)
    if not isinstance(spec, TrainSpec):
        raise BadInput(f"{run}: is of the stage {spec.stage}, which does not segment; give a run of the stage train")
    state = load_checkpoint(run, spec_digest(spec))
    progress = {} if state is None else state["progress"]
    if not progress.get("best_weights"):
        raise BadInput(f"{run}: no epoch is finished yet; hpcseg status shows how far it is")
    with Store(runs_root(run) / spec.labelled.store, verify=True) as store:
        window = clip_window(store, spec.config.preprocessing, spec.labelled)
    model = TrainedModel.of(spec, window, progress["best_weights"])
    return replace(model, provenance={**model.provenance, "epochs_so_far": progress["epoch"]})
