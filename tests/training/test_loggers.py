"""What other packages' loggers get of a run; each is read back with its own reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcseg.config import LoggingConfig
from hpcseg.errors import BadInput
from hpcseg.paths import HISTORY_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training import loggers
from hpcseg.training.control import Control
from hpcseg.training.loggers import Loggers, require_loggers, scalars
from hpcseg.training.stages import train
from tests.training.conftest import SMALL
from tests.training.test_stages import same_weights

Steps = dict[str, list[tuple[int, Any]]]


def events(run: Path) -> Steps:
    """Scalars of all event files of a run as they stand in them, doubled steps included."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False).Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def metrics(uri: str) -> Steps:
    """Those of the one run that MLflow knows."""
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("hpcseg").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["strategy"] == "baseline"
    return {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def expected(run: Path) -> Steps:
    found: Steps = {}
    for line in map(json.loads, (run / HISTORY_FILE).read_text().splitlines()):
        for name, value in scalars(line).items():
            found.setdefault(name, []).append((line["epoch"], pytest.approx(value, rel=1e-6)))
    return found


def test_loggers_get_every_epoch_once_over_a_kill_and_weights_stay_the_same_to_the_bit(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    plain, logged, uri = new_run("plain"), new_run("logged"), f"file:{tmp_path / 'mlflow'}"
    every = SMALL["training"] | {"epochs": 4, "checkpoint_epochs": 2}
    train(plain, train_spec(training=every), Control(plain))
    spec = train_spec(training=every, logging={"tensorboard": True, "mlflow": uri})

    class Killed(Control):
        """Dies an epoch after the last checkpoint."""

        def should_stop(self) -> bool:
            history = logged / HISTORY_FILE
            if history.exists() and len(history.read_text().splitlines()) == 3:
                raise KeyError
            return False

    with pytest.raises(KeyError):
        train(logged, spec, Killed(logged))
    assert [step for step, _ in events(logged)["loss/training"]] == [1, 2, 3]
    train(logged, spec, Control(logged))
    assert same_weights(plain, logged)
    assert expected(logged).keys() == {"loss/training", "loss/validation", "rate", "dice/1"}
    assert events(logged) == expected(logged)  # TensorBoard has float32
    assert metrics(uri) == expected(logged)


def test_a_logger_that_fails_ends_no_run_and_one_that_is_missing_is_told_before(
    tmp_path: Path, train_spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(run: Path, spec: object) -> Any:
        raise ConnectionError("no\nserver")

    monkeypatch.setattr(loggers, "_LOGGERS", {"mlflow": refuse})
    broken = Loggers(tmp_path, train_spec(logging={"mlflow": "http://nowhere"}))
    for epoch in (1, 2):
        broken.log({"epoch": epoch})
    broken.close()
    assert capsys.readouterr().out == "logging.mlflow: no server; the run goes on without it\n"
    with (
        monkeypatch.context() as patched,
        pytest.raises(BadInput, match=r"logging.mlflow: .* pip install 'hpcseg\[mlflow\]'"),
    ):
        patched.setattr("importlib.util.find_spec", lambda name: None)
        require_loggers(LoggingConfig(mlflow="/tmp/x"))
    require_loggers(LoggingConfig())
