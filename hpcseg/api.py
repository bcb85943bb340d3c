"""hpcseg from Python: apply trained models, read results; docs/api.md shows it.

`import hpcseg` loads none of it; `hpcseg.load_model` and the like do, when they are first asked for. What stands here
changes with a new version only where the changelog says so; all other modules are the command line's own.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, get_args

from hpcseg.errors import BadInput
from hpcseg.files import leave_out
from hpcseg.inference.predict import Mode
from hpcseg.inference.segment import Segmentation, Segmenter
from hpcseg.text import listed
from hpcseg.training.early import load_any
from hpcseg.volumes.store import Store

__all__ = ["Segmentation", "Segmenter", "Store", "load_model", "read_results"]

AnyPath = str | PathLike[str]


def load_model(path: AnyPath, *others: AnyPath, device: str | None = None, mode: Mode | None = None) -> Segmenter:
    """Load a trained model, or several whose probabilities are averaged.

    Args:
        path: a model.pt, or a run directory: of a run that is done, or of one that still trains (its best weights).
        others: more of them, with the same classes.
        device: "cpu", "cuda", "cuda:1"; None: the GPU, if there is one.
        mode: "tiles" or "paper", instead of the one that each model was configured with.

    Raises:
        BadInput: there is no model, it is damaged, or the classes of two differ; no such mode, or no such device here.
    """
    import torch

    if mode not in {None, *get_args(Mode)}:
        raise BadInput(f"mode = {mode!r}: there are {listed(get_args(Mode))}")
    models = [load_any(Path(one)) for one in (path, *others)]
    try:
        place = None if device is None else torch.zeros(1, device=device).device
    except (AssertionError, RuntimeError) as error:  # what torch says of a device that it does not know, or has not
        raise BadInput(f"device = {device!r}: {' '.join(str(error).split())[:150]}; give another, or None") from None
    return Segmenter(*models, device=place, mode=mode)


def read_results(runs: AnyPath = "runs", sweep: str | None = None) -> list[dict[str, Any]]:
    """Read what was measured, as records for `pandas.DataFrame`.

    Args:
        runs: folder of all runs, or of records that `hpcseg collect --records` wrote.
        sweep: its name; None: the one that was applied last.

    Returns:
        A record for each case and class of each set of each finished run: `run`, `strategy`, `labelled`, `fold`, `seed`
        and every axis of the sweep's grids, `set`, `case`, `class`, and every metric (None: undefined), lengths in mm,
        volumes in ml. `stale` says why a result may not be of what the sweep asks for; "" otherwise. Runs that stand
        in no grid, and teach others only, are left out.

    Raises:
        BadInput: no such sweep, or its record cannot be read. A result that cannot be used is a warning, `LeftOut`.
    """
    from hpcseg.results.collect import collect
    from hpcseg.results.second_process import second_process

    with second_process(Path(runs)) as other:
        collection = collect(Path(runs), sweep, other=other)
    for problem in collection.problems:
        leave_out(problem)
    axes = ["strategy", "labelled", "fold", "seed"]
    axes = list(dict.fromkeys([*axes, *(key for run in collection.runs for place in run.places for key in place.axes)]))
    return [
        {"run": run.id}
        | {key: run.axis(run.places[0], key) for key in axes}
        | {"set": name, "case": case, "class": class_, **metrics, "stale": run.stale}
        for run in collection.runs
        if run.result is not None and run.places
        for name, scores in run.result.sets.items()
        for case, class_, metrics in scores.rows()
    ]
