"""A model is one file: it needs nothing beside it, runs no code, and says what is wrong with it in one line."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.spec import TrainSpec, spec_text
from hpcseg.training.checkpoint import load_tensors, save_tensors
from hpcseg.training.model import TrainedModel, new_network

SpecMaker = Callable[..., TrainSpec]
UNET = {"kind": "unet", "levels": 2, "kernel": 3, "maps": 4}


@pytest.fixture
def trained(train_spec: SpecMaker) -> TrainedModel:
    return of(train_spec())


def of(spec: TrainSpec) -> TrainedModel:
    return TrainedModel.of(spec, (-10.0, 90.0), new_network(spec.config, max(len(spec.classes), 1)).state_dict())


@pytest.mark.parametrize("network", [{}, UNET], ids=["fnet", "unet"])
def test_all_of_a_model_comes_back_from_its_file_alone(
    train_spec: SpecMaker, tmp_path: Path, network: dict[str, Any]
) -> None:
    first = of(train_spec(**({"network": network} if network else {})))
    first.save(tmp_path / "here.pt")
    (tmp_path / "there").mkdir()
    shutil.move(tmp_path / "here.pt", tmp_path / "there" / "model.pt")
    for path in (tmp_path / "there", tmp_path / "there" / "model.pt"):
        second = TrainedModel.load(path)
        assert (second.config, second.spacing_zyx, second.classes) == (first.config, (2.0, 2.0, 2.0), ((1, 2),))
        assert (second.padding, second.pyramid_clip, second.window) == (-1000.0, (-200.0, 400.0), (-10.0, 90.0))
        assert (second.provenance, second.class_names) == (first.provenance, first.class_names)
        assert all(torch.equal(second.weights[key], first.weights[key]) for key in first.weights)


def test_a_model_says_whence_it_comes(train_spec: SpecMaker) -> None:
    model = of(train_spec(labelled=4, seed=7, data={"dataset": "Tiny"}))
    assert model.provenance | {"run": "run", "dataset": "Tiny", "labelled": 4, "fold": 0, "seed": 7} == model.provenance
    assert {"strategy", "trained", "hpcseg", "torch"} < model.provenance.keys()
    assert model.class_names == ("ball + core",)


def test_classes_without_a_description_have_no_names(train_spec: SpecMaker, tmp_path: Path) -> None:
    spec = train_spec()
    moved = tuple(case.model_copy(update={"image": tmp_path / "scan.nii.gz"}) for case in spec.validation_scans)
    model = of(spec.model_copy(update={"validation_scans": moved}))
    assert model.class_names == ()
    assert model.summary()["classes"] == {"class 1": [1, 2]}


def test_files_of_earlier_versions_are_read(trained: TrainedModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.pt")
    plain = load_tensors(tmp_path / "model.pt")
    del plain["class_names"]
    plain["provenance"] = {"run": "old", "hpcseg": "0", "torch": "2"}
    save_tensors(tmp_path / "model.pt", plain)
    old = TrainedModel.load(tmp_path)
    assert (old.name, old.class_names, old.config) == ("old", (), trained.config)
    assert old.summary()["problems"] == []


def test_the_model_of_another_run_is_not_that_of_the_folder(
    trained: TrainedModel, train_spec: SpecMaker, tmp_path: Path
) -> None:
    spec = train_spec()
    (tmp_path / "run.json").write_text(spec_text(spec))
    trained.save(tmp_path / "model.pt")
    assert TrainedModel.load(tmp_path).name == spec.id
    (tmp_path / "run.json").write_text(spec_text(spec.model_copy(update={"classes": ((1,), (2,))})))
    with pytest.raises(BadInput, match=r"not of the run\.json beside it"):
        TrainedModel.load(tmp_path)
    with pytest.raises(BadInput, match=r"not of the run\.json beside it"):
        TrainedModel.load(tmp_path / "model.pt")


def change(key: str, value: Any) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        save_tensors(path, load_tensors(path) | {key: value})

    return changed


def times(factor: float) -> Callable[[Path], None]:
    """One convolution's weights times a number."""

    def changed(path: Path) -> None:
        plain = load_tensors(path)
        name = next(name for name, weight in plain["weights"].items() if weight.ndim == 5)
        plain["weights"][name] *= factor
        save_tensors(path, plain)

    return changed


def patches_of(edge: int) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        plain = load_tensors(path)
        config = json.loads(plain["config"])
        config["patches"]["size"] = edge
        save_tensors(path, plain | {"config": json.dumps(config)})

    return changed


def shared_storage(path: Path) -> None:
    """A network of many more weights than the file has: all of a kind share one storage."""
    plain = load_tensors(path)
    config = RunConfig.model_validate_json(plain["config"])
    config = config.model_copy(update={"network": config.network.model_copy(update={"maps": 32})})
    with torch.device("meta"):
        wanted = new_network(config, 1).state_dict()
    known: dict[Any, torch.Tensor] = {}
    weights = {
        name: known.setdefault((weight.shape, weight.dtype), torch.zeros(weight.shape, dtype=weight.dtype))
        for name, weight in wanted.items()
    }
    save_tensors(path, plain | {"config": config.model_dump_json(), "weights": weights})


def without(key: str) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        plain = load_tensors(path)
        del plain[key]
        save_tensors(path, plain)

    return changed


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged, its checksum does not match"),
        (lambda path: path.write_bytes(b""), "not a file of hpcseg's tensors"),
        (lambda path: torch.save({"weights": 1}, path), "not a file of hpcseg's tensors"),
        (change("kind", "hpcseg-fnet 99"), "not a trained network of this version"),
        (change("kind", "hpcseg-autoencoder 1"), "holds a pretrained network, which does not segment"),
        (change("config", '{"strategy": "unheard of"}'), "its configuration is not one of this version"),
        (change("classes", [[1], [2]]), "its parts do not fit together"),
        (change("spacing_zyx", [1.0]), "its parts do not fit together"),
        (change("weights", {}), "its parts do not fit together"),
        (without("window"), "its parts do not fit together"),
        (change("spacing_zyx", [2.0, -5.0, 2.0]), "spacing is 2 × -5 × 2 mm, which no scan has"),
        (change("spacing_zyx", [2.0, math.inf, 2.0]), "spacing is 2 × inf × 2, not finite"),
        (change("padding", math.nan), "padding is nan, not finite"),
        (change("classes", [[1]] * 100_000), "its parts do not fit together"),
        (change("provenance", {"run": [[1]]}), "its parts do not fit together"),
        (times(math.nan), "are no numbers, or beyond all measure"),
        (times(1e38), "are no numbers, or beyond all measure"),
        (patches_of(100_000), "or of strategies that are here (patches.size: less than or equal to 512)"),
        (shared_storage, "its parts do not fit together"),
        (lambda path: save_tensors(path, cast("Any", [1, 2])), "not what hpcseg writes"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    trained: TrainedModel, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "model.pt"
    trained.save(path)
    spoil(path)
    with pytest.raises(BadInput) as error:
        TrainedModel.load(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Harm:
    """Would make a folder where it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_loading_runs_no_code(trained: TrainedModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.pt")
    change("provenance", {"run": Harm(tmp_path / "harm")})(tmp_path / "model.pt")
    with pytest.raises(BadInput, match="could run code"):
        TrainedModel.load(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_inspect_tells_what_a_model_is(trained: TrainedModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.pt")
    report = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "model.pt"), "--json"]).stdout)
    assert report["kind"] == "model"
    assert report["classes"] == {"ball + core": [1, 2]}
    assert report["parameters"] == sum(p.numel() for p in new_network(trained.config, 1).parameters())
    printed = CliRunner().invoke(app, ["inspect", str(tmp_path / "model.pt")], catch_exceptions=False)
    assert "ball + core" in printed.stdout
    assert printed.exit_code == 0
