"""How a job's stores are read changes nothing that is read from them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from hpcseg.errors import BadInput, Interrupted
from hpcseg.files import read_json
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.minibatch import Batch
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.spec import Reading, TrainSpec
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel, geometry_of
from hpcseg.training.stages import train
from hpcseg.training.stores import Stores

CPU = torch.device("cpu")  # volumes can be resident on any device
Reader = Callable[..., tuple[Stores, Batch]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def read(runs: Path, run: Path, train_spec: Callable[..., TrainSpec]) -> Reader:
    """Open the stores of a small run and take one minibatch from them."""

    def read(reading: Reading, gpu: torch.device | None = None) -> tuple[Stores, Batch]:
        spec = train_spec()
        config = spec.config
        with ExitStack() as stack:
            stores = Stores(runs, stack, (spec.labelled, spec.validation), reading, Control(run), gpu)
            window = stores.window(config.preprocessing, spec.labelled)
            sources = stores.sources(config.preprocessing, [spec.labelled], window)
            draw = Draw(batch=4, seed=0, stream=Stream.TRAINING, lattice=config.patches.lattice)
            share = config.patches.foreground_share
            batches = SegmentationBatches(sources, geometry_of(config), draw, foreground_share=share)
            return stores, batches.raw(3).to(CPU)

    return read


def same(one: Batch, other: Batch) -> bool:
    assert one.label_BDHW is not None and other.label_BDHW is not None
    return all(map(torch.equal, one.images, other.images)) and torch.equal(one.label_BDHW, other.label_BDHW)


@pytest.mark.parametrize("tier", ["gpu", "ram", "streamed"])
@pytest.mark.parametrize("on_node", [False, True])
def test_wherever_the_bytes_are_the_minibatches_are_the_same(
    read: Reader, tier: str, on_node: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plain = read(Reading(tier="streamed"))
    capsys.readouterr()
    reading = Reading.model_validate({"tier": tier, "stage": str(tmp_path / "node") if on_node else ""})
    stores, found = read(reading, CPU)
    assert same(plain, found)
    (line,) = stores.report
    assert (line.store, line.cases, line.tier) == ("tiny", 6, tier)
    assert (tmp_path / "node" in line.path.parents) == on_node
    said = capsys.readouterr().out
    assert line.describe() in said
    assert (" copied in " in said) == on_node


def test_of_a_damaged_copy_the_original_is_read_and_the_copy_made_anew(
    read: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plain = read(Reading(tier="streamed"))
    reading = Reading.model_validate({"tier": "streamed", "stage": str(tmp_path / "node")})
    read(reading)
    (copy,) = (tmp_path / "node").rglob("*.h5")
    content = bytearray(copy.read_bytes())
    content[5000:-5000:97] = bytes(len(content[5000:-5000:97]))
    copy.write_bytes(content)
    capsys.readouterr()
    stores, found = read(reading)
    assert same(plain, found) and "a damaged copy" in capsys.readouterr().out
    assert tmp_path / "node" not in stores.report[0].path.parents and not copy.exists()
    assert tmp_path / "node" in read(reading)[0].report[0].path.parents


def test_the_choice_follows_from_the_size(read: Reader) -> None:
    assert read(Reading())[0].report[0].tier == "ram"
    assert read(Reading(), CPU)[0].report[0].tier == "gpu"


def test_a_gpu_is_not_conjured_up(read: Reader) -> None:
    with pytest.raises(BadInput, match="tier = 'gpu'"):
        read(Reading(tier="gpu"))


def test_a_job_that_is_asked_to_stop_does_not_finish_copying(
    runs: Path, run: Path, train_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    control = Control(run)
    control.ask_to_stop()
    reading = Reading(stage=str(tmp_path / "node"))
    with pytest.raises(Interrupted, match="while a store was copied"), ExitStack() as stack:
        Stores(runs, stack, [train_spec().labelled], reading, control, None)
    assert not list((tmp_path / "node").rglob("*store*"))
    assert read_json(run / "heartbeat.json")["phase"] == "copying to the node"


def test_a_run_records_how_it_read_and_ends_with_the_same_weights(
    runs: Path, train_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    weights = []
    for name, reading in (("plain", Reading(tier="streamed")), ("staged", Reading(stage=str(tmp_path / "node")))):
        run = runs / "train" / f"reading-{name}"
        run.mkdir(parents=True)
        train(run, train_spec(), Control(run), reading)
        (line,) = read_json(run / "training.json")["reading"]
        assert line["tier"] == ("streamed" if name == "plain" else "ram")
        assert line["path"].startswith(str(runs if name == "plain" else tmp_path / "node"))
        weights.append(TrainedModel.load(run).weights)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
