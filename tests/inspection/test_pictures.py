"""Pictures are written, once, and show label contours in colours that differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpcseg.errors import BadInput
from hpcseg.inspection.pictures import COLOURS, Album
from hpcseg.inspection.views import Picture, picture_scan


def picture(name: str, shape: tuple[int, int, int] = (20, 30, 24), *, labelled: bool = True) -> Picture:
    volume = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    z, y, x = (n // 2 for n in shape)
    label[: z + 2, y - 2 : y + 2, x - 4 : x] = 1
    label[: z + 2, y - 2 : y + 2, x : x + 4] = 2
    return picture_scan(
        name,
        volume,
        label if labelled else None,
        (5.0, 1.0, 1.0),
        note="LPS, int16",
        window=(-160.0, 240.0),
        labels={1: "1 liver", 2: "2 tumour"},
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def shows(image: np.ndarray, colour: str) -> bool:
    wanted = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)])
    return bool((np.abs(image.astype(int) - wanted).max(axis=-1) < 30).sum() > 20)


def test_a_picture_and_the_overview(tmp_path: Path) -> None:
    album = Album(tmp_path / "new", ["a", "b", "c"], force=False)
    album.add(picture("a"))
    album.add(picture("c", (1, 40, 300), labelled=False))
    assert [path.name for path in album.finish()] == ["a.png", "c.png", "overview.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "c.png", "overview.png"]
    labelled, plain = (pixels(tmp_path / "new" / f"{name}.png") for name in "ac")
    assert shows(labelled, COLOURS[0])
    assert shows(labelled, COLOURS[1])
    assert not shows(plain, COLOURS[0])
    assert labelled.shape[1] == 1100
    assert shows(pixels(tmp_path / "new" / "overview.png"), COLOURS[0])


def test_names_with_dollars_are_shown_as_they_are(tmp_path: Path) -> None:
    name = r"$\frac$"
    album = Album(tmp_path, [name], force=False)
    album.add(dataclasses.replace(picture(name), labels={1: r"$\frac$", 2: "$x_"}))
    assert [path.name for path in album.finish()] == [f"{name}.png", "overview.png"]


def test_the_same_picture_has_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        Album(tmp_path / folder, ["a"], force=False).add(picture("a"))
    assert (tmp_path / "one" / "a.png").read_bytes() == (tmp_path / "two" / "a.png").read_bytes()


@pytest.mark.parametrize("name", ["b.png", "overview.png"])
def test_files_are_not_replaced_without_force(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(BadInput, match=f"{name}: exists; give another folder or --force"):
        Album(tmp_path, ["a", "b"], force=False)
    album = Album(tmp_path, ["a", "b"], force=True)
    album.add(picture("b"))
    album.finish()
    assert (tmp_path / name).read_bytes() != b"mine"


def test_more_than_60_cases_take_more_sheets(tmp_path: Path) -> None:
    names = [f"case_{n}" for n in range(61)]
    album = Album(tmp_path, names, force=False)
    for name in (names[0], names[-1]):
        album.add(picture(name))
    assert [path.name for path in album.finish()][2:] == ["overview_1.png", "overview_2.png"]


def test_nothing_to_show_leaves_no_file(tmp_path: Path) -> None:
    assert Album(tmp_path / "new", ["a"], force=False).finish() == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", ""])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the name of a file"):
        Album(tmp_path / "pictures", ["a", name], force=True)
