"""Tensor files are whole, checksummed and load without running code; a damaged newest checkpoint falls back."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.errors import BadInput
from hpcseg.paths import CHECKPOINT_FILE, PREVIOUS_FILE
from hpcseg.training.checkpoint import load_checkpoint, load_tensors, remove_checkpoints, save_checkpoint, save_tensors


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((3, 2), value), "nested": {"list": [1, 2.5, "text", None]}, "step": 7}


def test_round_trip_keeps_tensors_and_plain_values(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.pt", state(1.5))
    loaded = load_tensors(tmp_path / "x.pt")
    assert torch.equal(loaded["weights"], torch.full((3, 2), 1.5))
    assert loaded["nested"] == {"list": [1, 2.5, "text", None]}
    assert loaded["step"] == 7


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.pt"
    save_tensors(path, state(1.0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-9]), "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(BadInput, match=r"x\.pt") as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    buffer = io.BytesIO()
    torch.save({"weights": Evil()}, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    (tmp_path / "x.pt").write_bytes(b"hpcseg-tensors 1 " + digest + b"\n" + payload)
    with pytest.raises(BadInput, match="could run code"):
        load_tensors(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_newest_wins_and_the_one_before_is_kept(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        save_checkpoint(tmp_path, state(value))
    newest = load_checkpoint(tmp_path)
    assert newest is not None
    assert newest["weights"][0, 0] == 3.0
    assert load_tensors(tmp_path / PREVIOUS_FILE)["weights"][0, 0] == 2.0


def test_damaged_newest_falls_back_with_a_warning(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1.0))
    save_checkpoint(tmp_path, state(2.0))
    (tmp_path / CHECKPOINT_FILE).write_bytes((tmp_path / CHECKPOINT_FILE).read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged"):
        loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["weights"][0, 0] == 1.0


def test_the_checkpoint_of_another_run_is_named_and_not_taken_up(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1.0) | {"run.json": "mine"})
    save_checkpoint(tmp_path, state(2.0) | {"run.json": "another"})
    with pytest.warns(UserWarning, match="is the checkpoint of another run"):
        found = load_checkpoint(tmp_path, "mine")
    assert found is not None and found["weights"][0, 0] == 1.0
    with pytest.warns(UserWarning), pytest.raises(BadInput, match="no checkpoint can be read"):
        load_checkpoint(tmp_path, "a third one")


def test_checkpoints_of_earlier_versions_name_no_run_and_are_taken_up(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1.0))
    assert load_checkpoint(tmp_path, "mine") is not None


def test_two_generations_share_nothing_and_one_is_whole_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_FILE
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, state(value))
    really, seen = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        found = [path for path in (newest, previous) if path.exists()]
        inodes = {path.stat().st_ino for path in found}
        assert len(inodes) == len(found) == sum(path.stat().st_nlink for path in found)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        seen.append(float(loaded["weights"][0, 0]))
        return really(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    save_checkpoint(tmp_path, state(3.0))
    assert seen == [2.0, 2.0]
    assert load_tensors(previous)["weights"][0, 0] == 2.0 and load_tensors(newest)["weights"][0, 0] == 3.0


def cut(content: bytes, where: float) -> bytes:
    return content[: int(where * len(content))]


def flip(content: bytes, where: float) -> bytes:
    place = min(int(where * len(content)), len(content) - 1)
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


@pytest.mark.parametrize("where", [0.0, 0.001, 0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("damage", [cut, flip])
def test_any_damage_of_the_newest_gives_the_one_before_and_of_both_an_error(
    tmp_path: Path, damage: Callable[[bytes, float], bytes], where: float
) -> None:
    save_checkpoint(tmp_path, state(1.0))
    save_checkpoint(tmp_path, state(2.0))
    newest, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_FILE
    newest.write_bytes(damage(newest.read_bytes(), where))
    with pytest.warns(UserWarning, match=r"checkpoint\.pt: .*; trying the one before it"):
        loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded["weights"][0, 0] == 1.0
    previous.write_bytes(damage(previous.read_bytes(), where))
    with (
        pytest.warns(UserWarning),
        pytest.raises(BadInput, match=r"no checkpoint can be read; delete .* again") as caught,
    ):
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_save_says_its_bytes(tmp_path: Path) -> None:
    assert save_checkpoint(tmp_path, state(1.0)) == (tmp_path / CHECKPOINT_FILE).stat().st_size


def test_what_a_killed_save_left_goes_with_the_next(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1.0))
    (tmp_path / f".{CHECKPOINT_FILE}.0a1b2c3d4e5f.pt").write_bytes(b"half")
    (tmp_path / f".{CHECKPOINT_FILE}.new").write_bytes(b"half")  # of an earlier version
    save_checkpoint(tmp_path, state(2.0))
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT_FILE, PREVIOUS_FILE}


def test_a_run_that_is_renamed_while_it_saves_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run := tmp_path / "runs" / "train" / "one").mkdir(parents=True)
    save = torch.save

    def rename_and_save(*what: Any) -> None:
        (tmp_path / "runs").rename(tmp_path / "new")
        save(*what)

    monkeypatch.setattr(torch, "save", rename_and_save)
    with pytest.raises(FileNotFoundError):
        save_checkpoint(run, {"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_only_damaged_checkpoints_are_an_error_not_a_silent_restart(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(BadInput, match="no checkpoint can be read"):
        load_checkpoint(tmp_path)


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1.0))
    save_checkpoint(tmp_path, state(2.0))
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []
