"""What was trained before is used only as what it is: of its kind, level, strategy and run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE, RUN_FILE
from hpcseg.spec import PretrainSpec, spec_digest, spec_text
from hpcseg.training.checkpoint import load_tensors, save_tensors
from hpcseg.training.pretrained import pretrained_weights


@pytest.fixture
def levels(tmp_path: Path, pretrain_spec: Callable[[int], PretrainSpec]) -> list[Path]:
    """Pretrainings of both levels, with weights of one number."""
    found = []
    for level in (0, 1):
        spec = pretrain_spec(level)
        path = tmp_path / "pretrain" / spec.id / MODEL_FILE
        path.parent.mkdir(parents=True)
        (path.parent / RUN_FILE).write_text(spec_text(spec))
        made = {"run": spec.id, "run_digest": spec_digest(spec)}
        kind = {"kind": "hpcseg-autoencoder 1", "level": level}
        save_tensors(path, kind | made | {"weights": {"w": torch.tensor([float(level)])}})
        found.append(path)
    return found


def test_each_level_gets_its_own_weights(levels: list[Path]) -> None:
    assert [float(pretrained_weights(path, level=at)["w"]) for at, path in enumerate(levels)] == [0.0, 1.0]


def test_swapped_levels_are_named_and_not_used(levels: list[Path]) -> None:
    content = [path.read_bytes() for path in levels]
    for path, other in zip(levels, reversed(content), strict=True):
        path.write_bytes(other)
    for at, path in enumerate(levels):
        with pytest.raises(BadInput, match=rf"level{at}/model\.pt: is not the autoencoder of level {at}"):
            pretrained_weights(path, level=at)


def test_the_model_of_another_run_of_the_same_level_is_named_and_not_used(levels: list[Path]) -> None:
    state = load_tensors(levels[0])
    save_tensors(levels[0], state | {"run": "level0-of-another-fold"})
    with pytest.raises(BadInput, match="is the model of level0-of-another-fold"):
        pretrained_weights(levels[0], level=0)
    save_tensors(levels[0], state | {"run_digest": "0" * 64})
    with pytest.raises(BadInput, match=r"not of the run\.json beside it"):
        pretrained_weights(levels[0], level=0)
    with pytest.raises(BadInput, match="is not the pretrained network of 'masked'"):
        pretrained_weights(levels[1], strategy="masked")


def test_the_model_of_another_run_is_seen_without_run_json_too(levels: list[Path]) -> None:
    (levels[0].parent / RUN_FILE).unlink()
    assert float(pretrained_weights(levels[0], level=0)["w"]) == 0.0
    save_tensors(levels[0], load_tensors(levels[0]) | {"run": "level0-of-another-fold"})
    with pytest.raises(BadInput, match="is the model of level0-of-another-fold; delete"):
        pretrained_weights(levels[0], level=0)


def test_models_of_earlier_versions_name_no_run_and_are_used(levels: list[Path], tmp_path: Path) -> None:
    state = load_tensors(levels[0])
    save_tensors(levels[0], {key: state[key] for key in ("kind", "level", "weights")})
    assert float(pretrained_weights(levels[0], level=0)["w"]) == 0.0
    shutil.copy(levels[1], tmp_path / "elsewhere.pt")
    assert float(pretrained_weights(tmp_path / "elsewhere.pt", level=1)["w"]) == 1.0


@pytest.mark.parametrize("weights", [None, 7, {}, {"w": "x"}, {"w": torch.tensor([1.0, torch.nan])}])
def test_weights_that_are_none_are_named(levels: list[Path], weights: object) -> None:
    save_tensors(levels[0], load_tensors(levels[0]) | {"weights": weights})
    with pytest.raises(BadInput, match=r"level0/model\.pt: its weights are missing, or no finite numbers"):
        pretrained_weights(levels[0], level=0)
