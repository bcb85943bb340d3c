"""Validation scans come from the store that they were packed into, where that holds the same; else from their files.
Ranks measure the scans in turn."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from torch import Tensor

from hpcseg.config import RunConfig
from hpcseg.errors import Interrupted, LeftOut
from hpcseg.files import json_text
from hpcseg.inference import evaluate
from hpcseg.inference.segment import ReadScan, Segmenter
from hpcseg.spec import PackSpec, SourceRef, TrainSpec
from hpcseg.training.control import Control
from hpcseg.training.ranks import ALONE, Ranks
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import Store
from tests.inference.untrained import CPU, SPACING, model, save
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def packed(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSpec]:
    """A store of two cases, and a run that is validated on them."""
    cases = open_dataset(tiny_dataset).training[:2]
    recipe: dict[str, Any] = {"spacing_zyx": SPACING, "classes": ((1, 2),), "padding": -1000.0}
    recipe["pyramid_clip"] = (-200.0, 400.0)
    path = tmp_path_factory.mktemp("store") / "store.h5"
    pack(PackSpec(id="tiny", dataset="Tiny", cases=cases, **recipe), path)
    source = SourceRef(store=Path("store.h5"), cases=tuple(case.name for case in cases))
    spec = TrainSpec(id="run", config=RunConfig(), labelled=source, validation=source, validation_scans=cases, **recipe)
    return path, spec


def read(packed: tuple[Path, TrainSpec], group: str = "validation", **changes: Any) -> tuple[ReadScan, bool]:
    """What is read of a scan, and whether it came from the store."""
    came: list[bool] = []

    class Watched(Segmenter):
        def read(self, image: Path) -> ReadScan:
            came.append(False)
            return super().read(image)

    path, spec = packed
    spec = spec.model_copy(update=changes)
    with Store(path, verify=True) as store:
        scan = evaluate._read(Watched(model(), device=CPU), spec, store, (group, spec.validation_scans[1]))
    return scan, not came


def test_the_store_and_the_file_give_the_same(packed: tuple[Path, TrainSpec]) -> None:
    (stored, from_store), (own, from_file) = read(packed), read(packed, "test")
    assert from_store and not from_file
    for name in ("paddings", "coding", "crop"):
        assert getattr(stored.volume, name) == getattr(own.volume, name)
    ours, theirs = ([*scan.volume.levels_zyx, *scan.volume.histogram] for scan in (stored, own))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    np.testing.assert_array_equal(stored.grid.affine, own.grid.affine)
    assert isinstance(stored.volume, ScanVolume)


@pytest.mark.parametrize(
    "changes",
    [{"spacing_zyx": (2.0, 2.0, 3.0)}, {"padding": -900.0}, {"pyramid_clip": None}, {"pyramid_clip": (-9.0, 9.0)}],
)
def test_a_store_that_was_packed_otherwise_is_not_used(packed: tuple[Path, TrainSpec], changes: dict[str, Any]) -> None:
    assert not read(packed, **changes)[1]


def test_a_scan_that_is_another_than_the_packed_one_is_read(packed: tuple[Path, TrainSpec], tmp_path: Path) -> None:
    first, second = packed[1].validation_scans
    other = second.model_copy(update={"image": first.image, "label": first.label, "mark": ""})
    scan, from_store = read(packed, validation_scans=(first, other))
    assert not from_store and scan.image == first.image


def test_of_a_damaged_store_the_scan_is_read(packed: tuple[Path, TrainSpec], tmp_path: Path) -> None:
    path, spec = packed
    damaged = tmp_path / "store.h5"
    content = bytearray(path.read_bytes())
    with h5py.File(path, "r") as file:
        chunk = file[f"cases/{spec.validation.cases[1]}/image_0"].id.get_chunk_info(0)
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.warns(LeftOut, match=r"is damaged .* is left out"):
        scan, from_store = read((damaged, spec))
    assert not from_store
    for own, kept in zip(scan.volume.levels_zyx, read(packed)[0].volume.levels_zyx, strict=True):
        np.testing.assert_array_equal(own, kept)


def test_without_a_store_scans_are_read(packed: tuple[Path, TrainSpec], tmp_path: Path) -> None:
    (tmp_path / "train" / "run").mkdir(parents=True)
    with evaluate._validation_store(tmp_path / "train" / "run", packed[1]) as store:
        assert store is None


class Meeting:
    """Where two ranks that are threads add up: one that stays away breaks it."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=PATIENCE_S)
        self.brought: list[Any] = [None, None]

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.brought[rank] = value
        self.barrier.wait()
        found = [*self.brought]
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class InThread(Ranks):
    """A rank that meets the other one of this process."""

    meeting: Meeting = field(default_factory=Meeting)

    def add_up(self, tensor: Tensor) -> Tensor:
        one, other = self.meeting.exchange(self.rank, tensor.clone())
        return tensor.copy_(one + other)

    def of_leader(self, make: Any) -> Any:
        return self.meeting.exchange(self.rank, make() if self.leads else None)[0]


class StopIn(Control):
    def __init__(self, run: Path, rank: int, rounds: int) -> None:
        super().__init__(run, silent=rank > 0)
        self.left = rounds

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("scans", [3, 4])
def test_ranks_measure_the_scans_in_turn_and_stop_together(
    packed: tuple[Path, TrainSpec], tiny_dataset: Path, tmp_path: Path, scans: int
) -> None:
    _, spec = packed
    cases = open_dataset(tiny_dataset).training[2:scans]
    spec = spec.model_copy(update={"test_scans": cases, "test_classes": spec.classes})

    def run(name: str) -> Path:
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        save(model(), folder)
        summary = {"steps": 1, "ranks": 2, "rank_seconds": 1.0}
        (folder / "training.json").write_text(json_text(summary))
        return folder

    def together(folder: Path, stops: tuple[int, int]) -> list[str]:
        meeting = Meeting()

        def rank(number: int) -> str:
            try:
                evaluate.evaluate(
                    folder, spec, StopIn(folder, number, stops[number]), InThread(number, 2, CPU, meeting)
                )
            except Interrupted:
                return "stopped"
            return "done"

        with ThreadPoolExecutor(2) as pool:
            return [*pool.map(rank, (0, 1))]

    alone, pair = run("alone"), run("pair")
    evaluate.evaluate(alone, spec, Control(alone), ALONE)
    assert together(pair, (0, 2)) == ["stopped", "stopped"]
    assert together(pair, (1, 0)) == ["stopped", "stopped"] and not (pair / "result.json").exists()
    assert together(pair, (0, 0)) == ["done", "done"]
    sets = [json.loads((folder / "result.json").read_text())["sets"] for folder in (alone, pair)]
    assert sets[0] == sets[1] and len(sets[0]["validation"] + sets[0]["test"]) == scans


def test_a_run_that_is_renamed_while_it_is_measured_is_not_made_again(
    packed: tuple[Path, TrainSpec], tmp_path: Path
) -> None:
    config = RunConfig.model_validate({"inference": {"save_masks": True}})
    spec = packed[1].model_copy(update={"config": config})
    run = tmp_path / "runs" / "train" / "one"
    run.mkdir(parents=True)
    save(model(), run)
    (run / "training.json").write_text(json_text({"steps": 1, "ranks": 1, "rank_seconds": 1.0}))

    class Renaming(Control):
        def should_stop(self) -> bool:
            if (tmp_path / "runs").exists():
                (tmp_path / "runs").rename(tmp_path / "new")
            return False

    with pytest.raises(FileNotFoundError):
        evaluate.evaluate(run, spec, Renaming(run))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
