"""What is found in stores: complete for good ones, problems listed for damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection.store_findings import inspect_store
from hpcseg.volumes.packing import pack


@pytest.fixture
def store(tiny_dataset: Path, make_spec, tmp_path: Path) -> Path:
    pack(make_spec(tiny_dataset), tmp_path / "store.h5")
    return tmp_path / "store.h5"


def test_a_store(store: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    found = inspect_store(store, lambda done, total, name: calls.append((done, total, name)))
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["dataset"], found["problems"]) == ("store", "Tiny", [])
    assert (found["spacing_zyx"], found["codec"], found["levels"]) == ([2.0, 2.0, 2.0], "none", 4)
    assert found["size_bytes"] == store.stat().st_size
    assert [case["case"] for case in found["cases"]] == [f"case_{index:03d}" for index in range(1, 9)]
    first = found["cases"][0]
    assert first["labelled"]
    assert first["foreground_voxels"] > 100
    assert 2 * 24 * 28 * 26 < first["size_bytes"] < found["size_bytes"] / 8
    assert found["read_speed"]["boxes_per_s"] > 0
    assert calls[-1][0] == calls[-1][1]


def test_a_damaged_store_is_a_problem_of_the_case(store: Path) -> None:
    content = bytearray(store.read_bytes())
    content[len(content) // 2] ^= 255
    store.write_bytes(content)
    found = inspect_store(store, pictures=store.parent / "png")
    assert json.loads(json.dumps(found)) == found
    assert found["problems"]
    assert all(str(store) in line for line in found["problems"])


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_cut_store_is_a_problem(store: Path, size: int) -> None:
    store.write_bytes(store.read_bytes()[:size])
    found = inspect_store(store)
    (problem,) = found["problems"]
    assert str(store) in problem
    assert found["cases"] == []


def test_no_store_is_a_problem(tmp_path: Path) -> None:
    (problem,) = inspect_store(tmp_path / "none.h5")["problems"]
    assert "no such store" in problem


def test_pictures_of_a_store(store: Path, tmp_path: Path) -> None:
    found = inspect_store(store, pictures=tmp_path / "png")
    assert len(found["pictures"]) == 9
    with pytest.raises(BadInput, match=r"case_001\.png: exists"):
        inspect_store(store, pictures=tmp_path / "png")
