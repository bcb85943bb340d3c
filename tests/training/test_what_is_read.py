"""What a training reads of the configuration is part of its run's identity: no two results share an id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcseg.config import AutoencoderConfig, sections
from hpcseg.spec import TrainSpec
from hpcseg.study.identity import relevant
from hpcseg.training.control import Control
from hpcseg.training.stages import train
from tests.training.conftest import COPYPASTE

ELSEWHERE = {"with_validation", "with_supplementary"}  # which volumes are seen enters by their names
CHECKED = {"decoder"}  # read by the check of a whole configuration, whatever the strategy
# Values other than the published ones, which ids leave out.
CHANGED = {"inside": 0.25, "lifetime": 0.5, "loss": "l2", "decoder": "cbru"}


def _watch(monkeypatch: pytest.MonkeyPatch, section: type[Any]) -> set[str]:
    """The keys of a section that are read from now on."""
    found: set[str] = set()

    def read(self: Any, name: str) -> Any:
        if name in section.model_fields:
            found.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(section, "__getattribute__", read, raising=False)
    return found


@pytest.mark.parametrize("strategy", ["baseline", "multitask", "teacher"])
def test_every_key_that_a_training_reads_of_autoencoders_and_of_its_strategy_is_in_its_id(
    train_spec: Callable[..., TrainSpec], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    spec = train_spec(strategy, autoencoder=CHANGED | {"batch": 2, "winners": 2}, **COPYPASTE)
    run = new_run("watched")
    known = {name: set(json.loads(text)) for name, text in relevant(spec.config).items() if name in sections()}
    own = sections().get(strategy)
    with monkeypatch.context() as watched:
        read = {"autoencoder": _watch(watched, AutoencoderConfig)}
        if own is not None:
            read[strategy] = _watch(watched, own)
        train(run, spec, Control(run))
    left_out = ELSEWHERE | (CHECKED if strategy != "multitask" else set())
    assert {name: sorted(keys - left_out - known.get(name, set())) for name, keys in read.items()} == {
        name: [] for name in read
    }
    assert "inside" in read["autoencoder"] or strategy == "baseline", "what is watched is what the training reads"
