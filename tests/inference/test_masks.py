"""Files in, files out: what is written where, what is refused, and the command itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import BadInput
from hpcseg.inference.masks import segment_files
from hpcseg.inference.outputs import Wanted
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


def test_a_failing_scan_leaves_the_masks_before_it_and_no_half(image: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(image.read_bytes()[:-4000])
    made = segment_files([save(model(), tmp_path)], [image, broken], tmp_path / "masks", wanted=Wanted(largest=True))
    assert next(made).exists()
    with pytest.raises(BadInput, match=r"broken\.nii\.gz: not a readable NIfTI scan"):
        next(made)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["case_007.nii.gz"]


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
