"""Figures of what was learned: filters and reconstructions show the weights and the patches that are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpcseg.config import AutoencoderConfig, RunConfig
from hpcseg.networks.autoencoder import Stamps, WTAutoencoder
from hpcseg.results.collect import collect
from hpcseg.results.collection import Collection
from hpcseg.results.figures.figures import draw_figures
from hpcseg.results.figures.reconstructions import read_patches
from hpcseg.spec import PackSpec, SourceRef, TrainSpec, read_spec
from hpcseg.training.checkpoint import load_tensors, save_tensors
from hpcseg.training.model import new_network
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack
from tests.results.artists import contents, drawn, problems, texts, why_not

STORE = Path("pack/tiny/store.h5")
SMALL = {"patches": {"size": 16}, "network": {"levels": 2, "kernel": 3, "maps": 4}, "strategy": "transfer"}
SMALL |= {"preprocessing": {"intensity": "window"}}
LEVELS = tuple(Path(f"pretrain/level{level}/model.pt") for level in (0, 1))


@pytest.fixture(scope="module")
def store(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "store.h5"
    spec = PackSpec(
        id="tiny", dataset="Tiny", cases=open_dataset(tiny_dataset).training, spacing_zyx=(2.0, 2.0, 2.0),
        classes=((1, 2),), padding=-1000.0, pyramid_clip=(-200.0, 400.0),
    )  # fmt: skip
    pack(spec, path)
    return path


@pytest.fixture
def collection(sweep_files: Callable[..., Any], as_scores: Callable[..., Any], store: Path) -> Collection:
    """A sweep of one S-TL run on a packed dataset; no weights yet."""
    files = sweep_files()
    run = files.run(as_scores(test=[0.5]), strategy="transfer", labelled=2, fold=0)
    root = files.save()
    (root / STORE).parent.mkdir(parents=True)
    (root / STORE).symlink_to(store)
    cases = ("case_001", "case_002")
    spec = TrainSpec(
        id=run, config=RunConfig.model_validate(SMALL), labelled=SourceRef(store=STORE, cases=cases),
        validation=SourceRef(store=STORE, cases=("case_003", "case_004")), pretrained=LEVELS,
        spacing_zyx=(2, 2, 2), classes=((1, 2),), padding=-1000.0, pyramid_clip=(-200.0, 400.0), validation_scans=(),
    )  # fmt: skip
    (root / "train" / run / "run.json").write_text(spec.model_dump_json())
    return collect(root)


def _autoencoder() -> WTAutoencoder:
    """Decoder filters that put one voxel of the strength of a winner in its place; filter 2 is the strongest."""
    network = WTAutoencoder(3, 4, 1.0, AutoencoderConfig(winners=5))
    assert isinstance(network.decoder, Stamps)
    with torch.no_grad():
        network.decoder.weight.zero_()
        network.decoder.bias.zero_()
        for number, strength in enumerate((1.0, -2.0, 4.0, 0.5)):
            network.decoder.weight[number, 0, 3, 3, 3] = strength
    return network


def _save(collection: Collection, network: WTAutoencoder) -> None:
    for path in LEVELS:
        (collection.root / path).parent.mkdir(parents=True, exist_ok=True)
        save_tensors(collection.root / path, {"weights": network.state_dict()})


def test_filters_are_central_slices_strongest_first_on_a_symmetric_grey_scale(collection: Collection) -> None:
    network = _autoencoder()
    _save(collection, network)
    figure = drawn(collection, kind="filters")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["(a) Resolution 0", "(b) Resolution 1"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["CBR1", "CBR2", "CBR3", "Dec"]
    images = figure.axes[0].images
    assert len(images) == 16
    assert [float(np.asarray(image.get_array())[3, 3]) for image in images[12:]] == [4.0, -2.0, 1.0, 0.5]
    first = network.encoder.cbr1.conv.weight.detach().numpy()[:, 0]
    strongest = first[np.argmax((first**2).sum(axis=(1, 2, 3)))]
    np.testing.assert_array_equal(images[0].get_array(), strongest[1])
    for image in images:
        low, high = image.get_clim()
        assert low == -high < 0
    assert problems(figure) == []
    assert any("CBR1 3³" in said and "Dec 7³" in said for said, _, _ in texts(figure))


def test_reconstructions_show_patches_of_validation_cases_and_winners_where_they_stand(collection: Collection) -> None:
    _save(collection, _autoencoder())
    figure = drawn(collection, kind="reconstructions")
    spec = read_spec(collection.root / "train" / collection.runs[0].id)
    assert isinstance(spec, TrainSpec)
    finest = read_patches(spec, collection.root, 4)[0]
    panels = np.array(figure.axes[:12]).reshape(4, 3).T  # patch after patch
    for patch in range(4):
        shown = panels[0, patch].images[0].get_array()
        np.testing.assert_array_equal(shown, finest[patch, 0, finest.shape[2] // 2].numpy())
    network = _autoencoder().eval()
    network.load_state_dict(load_tensors(collection.root / LEVELS[0])["weights"])
    with torch.no_grad():
        rebuilt = network(finest)
    np.testing.assert_allclose(panels[2, 1].images[0].get_array(), rebuilt[1, 0, rebuilt.shape[2] // 2], rtol=1e-6)
    dots = panels[1, 1].collections[0].get_offsets()
    assert 0 < len(dots) <= 20
    lit = (rebuilt[1, 0].abs() > 0).any(dim=0)
    assert all(lit[int(y), int(x)] for x, y in dots)
    assert problems(figure) == []


def test_a_sweep_without_autoencoders_shows_the_filters_of_its_networks(collection: Collection) -> None:
    assert why_not(collection, kind="filters") == "no run has left weights of autoencoders or of an F-Net yet"
    network = new_network(RunConfig.model_validate(SMALL), 1)
    run = collection.root / "train" / collection.runs[0].id
    save_tensors(run / "model.pt", {"weights": network.state_dict()})
    figure = drawn(collection, kind="filters")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["CBR1", "CBR2", "CBR3"]
    assert "S-TL run has its autoencoders" in why_not(collection, kind="reconstructions")


def test_what_is_damaged_or_gone_is_a_reason_not_an_exception(collection: Collection) -> None:
    _save(collection, _autoencoder())
    (collection.root / STORE).unlink()
    assert "store.h5" in why_not(collection, kind="reconstructions")
    (collection.root / LEVELS[1]).write_bytes(b"hpcseg-tensors 1 0\nnothing")
    for kind in ("filters", "reconstructions"):
        assert "level1/model.pt: damaged" in why_not(collection, kind=kind)


def test_learned_figures_are_the_same_to_the_byte(collection: Collection, tmp_path: Path) -> None:
    _save(collection, _autoencoder())
    figures = [{"name": kind, "kind": kind} for kind in ("filters", "reconstructions")]
    collection = type(collection)(
        **(vars(collection) | {"figures": tuple(map(type(collection.figures[0]).model_validate, figures))})
    )
    one, other = (draw_figures(collection, tmp_path / name) for name in ("one", "other"))
    assert contents(one) == contents(other) and len(contents(one)) == 4
