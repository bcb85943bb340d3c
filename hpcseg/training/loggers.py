"""Epochs for the loggers of other packages, `logging.*`: TensorBoard, MLflow, Weights & Biases; all of them optional.

What they are told stands in `history.jsonl` already. TensorBoard's and W&B's files are written anew from it when an
attempt ends its first epoch, and a run of MLflow gets the epochs that it lacks: no step of a resumed run comes twice.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hpcseg.config import LoggingConfig
from hpcseg.errors import BadInput
from hpcseg.owners import private_folder
from hpcseg.paths import HISTORY_FILE, TENSORBOARD_FOLDER, WANDB_FOLDER
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training.history import read_history

Spec = PretrainSpec | TrainSpec


class Logger(Protocol):
    """Where epochs go."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an epoch, which counts from 1."""

    def close(self) -> None:
        """Write out what waits."""


class TensorBoard:
    """Event files in the run's folder `tensorboard/`: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run: Path, spec: Spec) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run / TENSORBOARD_FOLDER
        private_folder(folder)
        shutil.rmtree(folder)
        self._writer = SummaryWriter(folder, purge_step=1)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class MLflow:
    """A run of the experiment "hpcseg", found again by its tag, in a tracking server or a folder."""

    def __init__(self, run: Path, spec: Spec) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # folders are asked for twice by MLflow 3.7 and later
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client = client = MlflowClient(tracking_uri=spec.config.logging.mlflow)
        with contextlib.suppress(MlflowException):  # it is there, or another run makes it just now
            client.create_experiment("hpcseg")
        experiment = client.get_experiment_by_name("hpcseg")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], f"tags.`hpcseg.run` = '{spec.id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
        else:
            tags = {"hpcseg.run": spec.id, "hpcseg.stage": spec.stage}
            self._run = client.create_run(experiment.experiment_id, tags=tags, run_name=spec.id).info.run_id
            for key in ("strategy", "labelled", "fold", "seed"):
                client.log_param(self._run, key, getattr(spec.config, key))
        client.update_run(self._run, status="RUNNING")
        self._known = max((one.step for one in client.get_metric_history(self._run, "loss/training")), default=0)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        from mlflow.entities import Metric

        if epoch > self._known:
            now = int(1000 * time.time())
            self._client.log_batch(self._run, [Metric(name, value, now, epoch) for name, value in values.items()])

    def close(self) -> None:
        """See `Logger`."""
        self._client.set_terminated(self._run)


class WandB:
    """Files of an offline run in the run's folder `wandb/`, for `wandb sync`."""

    def __init__(self, run: Path, spec: Spec) -> None:
        import wandb

        private_folder(run / WANDB_FOLDER)
        shutil.rmtree(run / WANDB_FOLDER)
        settings = wandb.Settings(silent=True, disable_git=True, console="off")
        config = spec.config.model_dump(mode="json")
        self._run = wandb.init(
            mode="offline", dir=run, project="hpcseg", id=spec.id, name=spec.id, config=config, settings=settings
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


_LOGGERS: Mapping[str, Callable[[Path, Spec], Logger]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class Loggers:
    """Those that a run is configured with; opened when its first epoch ends.

    One that fails (a server that does not answer, a missing package) is left out with a line: no run ends of it.
    """

    def __init__(self, run: Path, spec: Spec) -> None:
        self._run, self._spec = run, spec
        self._wanted = wanted(spec.config.logging)
        self._open: dict[str, Logger] = {}

    def log(self, record: Mapping[str, Any]) -> None:
        """Take an epoch's record, which stands in the history already."""
        for name in [*self._wanted]:
            self._attempt(name, record)

    def _attempt(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            if name in self._open:
                self._open[name].log(record["epoch"], scalars(record))
                return
            self._open[name] = _LOGGERS[name](self._run, self._spec)
            for known in read_history(self._run / HISTORY_FILE):
                self._open[name].log(known["epoch"], scalars(known))
        except Exception as error:
            self._wanted.remove(name)
            self._open.pop(name, None)
            print(f"logging.{name}: {' '.join(str(error).split())[:200]}; the run goes on without it", flush=True)

    def close(self) -> None:
        """Close all that are open."""
        for name, logger in self._open.items():
            try:
                logger.close()
            except Exception as error:
                print(f"logging.{name}: {' '.join(str(error).split())[:200]}", flush=True)


def wanted(config: LoggingConfig) -> list[str]:
    """Names of the loggers that are switched on."""
    return [name for name in _LOGGERS if getattr(config, name)]


def require_loggers(config: LoggingConfig) -> None:
    """Look whether the packages of all that is switched on are here.

    Raises:
        BadInput: one is not.
    """
    for name in wanted(config):
        if importlib.util.find_spec(name) is None:
            raise BadInput(f"logging.{name}: its package is not installed here; pip install 'hpcseg[{name}]'")


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch by name, those of classes with their number.

    >>> scalars({"training_loss": 0.5, "validation_loss": None, "learning_rate": 0.01, "validation_dice": [0.9, None]})
    {'loss/training': 0.5, 'rate': 0.01, 'dice/1': 0.9}
    """
    plain = {"loss/training": "training_loss", "loss/validation": "validation_loss", "rate": "learning_rate"}
    found = {name: record.get(key) for name, key in plain.items()}
    found |= {f"loss/{name}": value for name, value in record.get("losses", {}).items() if len(record["losses"]) > 1}
    for name, key in {"dice": "validation_dice", "dsc": "validation_dsc"}.items():
        found |= {f"{name}/{label}": value for label, value in enumerate(record.get(key) or (), start=1)}
    return {name: float(value) for name, value in found.items() if value is not None}
