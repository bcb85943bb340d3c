"""Files in, files out: what is written where, what is refused, and the command itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import BadInput, HpcsegError
from hpcseg.inference.masks import segment_files
from tests.commandline import call
from tests.faults import files_of_at_most
from tests.inference.untrained import model, save


def test_existing_masks_are_not_overwritten_unless_asked(image: Path, tmp_path: Path) -> None:
    path = save(model(), tmp_path)
    mask = next(segment_files([path], [image], tmp_path / "masks"))
    with pytest.raises(BadInput, match=r"exists.*--force"):
        next(segment_files([path], [image], tmp_path / "masks"))
    assert next(segment_files([path], [image], tmp_path / "masks", force=True)) == mask


def test_a_scan_is_never_replaced_by_its_own_mask(image: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(image.read_bytes())
    with pytest.raises(BadInput, match="exists"):
        next(segment_files([save(model(), tmp_path)], [scan], tmp_path, force=True))
    assert scan.read_bytes() == image.read_bytes()


def test_missing_model_and_equal_names_are_one_line(image: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no trained model"):
        next(segment_files([tmp_path], [image], tmp_path / "masks"))
    with pytest.raises(BadInput, match="second scan named case_007"):
        next(segment_files([save(model(), tmp_path)], [image, image], tmp_path / "masks"))


def test_of_a_model_that_was_removed_the_way_to_another_is_named(image: Path, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    for given in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(BadInput, match=f"removed: move {tmp_path} away, and the same hpcseg sweep trains it anew"):
            next(segment_files([given], [image], tmp_path / "masks"))


def test_progress_tells_of_scans_and_tiles(image: Path, tmp_path: Path) -> None:
    scans: list[Any] = []
    tiles: list[Any] = []
    list(
        segment_files(
            [save(model(tile=8), tmp_path)],
            [image],
            tmp_path / "masks",
            progress=lambda *told: scans.append(told),
            advance=lambda *told: tiles.append(told),
        )
    )
    assert scans == [(0, 1, "case_007.nii.gz"), (1, 1, "")]
    assert [done for done, _ in tiles] == list(range(1, tiles[-1][1] + 1))


def test_scans_that_cannot_be_read_are_named_when_the_others_are_done(image: Path, tmp_path: Path) -> None:
    broken, flat = tmp_path / "broken.nii.gz", tmp_path / "flat.nii.gz"
    broken.write_bytes(image.read_bytes()[:-4000])
    nib.save(nib.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)), flat)
    words = ["segment", save(model(), tmp_path), broken, tmp_path / "absent.nii", flat, image, "--to", "masks"]
    done = call(tmp_path, *words, "--skip-existing")
    assert done.returncode == 2 and done.stdout == "masks/case_007.nii.gz\n"
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["case_007.nii.gz"]
    first, second, third, last = done.stderr.splitlines()[-4:]
    assert "broken.nii.gz: not a readable NIfTI scan" in first and "absent.nii: no such scan" in second
    assert (
        "shape (4, 4) is not 3-D" in third
        and last == "3 of 4 scans are not segmented; --skip-existing leaves the others"
    )


def test_a_full_disk_is_one_line_that_names_the_folder_and_the_way_on(image: Path, tmp_path: Path) -> None:
    path, masks = save(model(), tmp_path), tmp_path / "masks"
    with files_of_at_most(100), pytest.raises(HpcsegError, match=f"{masks}: .*make room, and --skip-existing goes on"):
        list(segment_files([path], [image], masks))
    assert list(masks.iterdir()) == []


def test_the_command_averages_models_and_writes_maps(image: Path, tmp_path: Path) -> None:
    models = [save(model(((1,), (2,)), seed=seed), tmp_path, f"{seed}.pt") for seed in (1, 2)]
    options = ["--to", str(tmp_path / "masks"), "--probabilities", "--largest", "--mode", "paper"]
    done = CliRunner().invoke(app, ["segment", *map(str, models), str(image), *options], catch_exceptions=False)
    names = ["case_007.nii.gz", "case_007.p1.nii.gz", "case_007.p2.nii.gz"]
    assert done.stdout.split() == [str(tmp_path / "masks" / name) for name in names]
    mask, *maps = (nib.nifti1.load(tmp_path / "masks" / name) for name in names)
    shares = np.stack([map_.get_fdata() for map_ in maps])
    assert shares.min() >= 0
    assert shares.sum(axis=0).max() <= 1 + 1e-4
    assert set(np.unique(np.asanyarray(mask.dataobj))) <= {0, 1, 2}


def test_maps_without_their_mask_are_made_anew_by_who_goes_on_and_by_no_one_else(image: Path, tmp_path: Path) -> None:
    masks, path = tmp_path / "masks", save(model(), tmp_path)
    masks.mkdir()
    (masks / "case_007.p1.nii.gz").write_bytes(b"left by a call that was killed")
    words = ["segment", str(path), str(image), "--to", str(masks), "--probabilities"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, BadInput)
    assert (masks / "case_007.p1.nii.gz").read_bytes().startswith(b"left")
    done = CliRunner().invoke(app, [*words, "--skip-existing"], catch_exceptions=False)
    assert done.exit_code == 0
    assert nib.nifti1.load(masks / "case_007.p1.nii.gz").get_fdata().max() <= 1


def test_ctrl_c_is_one_line_that_names_the_way_on(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcseg.inference.masks.segment_files", stopped)
    words = ["segment", str(save(model(), tmp_path)), str(image), "--to", str(tmp_path / "masks")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130
    (line,) = done.stderr.splitlines()
    assert line == "error: stopped; the same command with --skip-existing goes on with the other scans"
