"""What `import hpcseg` offers: docs/api.md as it stands, and scans in whatever form."""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import hpcseg
from hpcseg.errors import BadInput, LeftOut
from hpcseg.study.keys import parse_config
from hpcseg.study.packs import dataset_pack
from hpcseg.volumes import packing
from hpcseg.volumes.in_memory import as_file
from hpcseg.volumes.scans import read_image
from tests.inference.untrained import model, save
from tests.results.conftest import SweepFiles

DOCS = Path(__file__).parents[1] / "docs" / "api.md"


def write_results(root: Path) -> SweepFiles:
    files = SweepFiles(root)
    for strategy, dscs in (("baseline", [0.5, 0.7]), ("transfer", [0.6, 0.9])):
        scores = [{"case": f"test{number}", "class": 1, "dsc": dsc} for number, dsc in enumerate(dscs)]
        files.run({"test": scores}, strategy=strategy, labelled=2)
    files.run(None, strategy="multitask", labelled=2)
    files.save()
    return files


def test_the_examples_of_the_page_give_what_they_say(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(model(), tmp_path)
    shutil.copy(tiny_dataset / "imagesTs" / "case_007.nii.gz", "scan.nii.gz")
    write_results(tmp_path / "runs")
    config = parse_config(["preprocessing.spacing=4", "data.foreground=[1,2]"])
    packing.pack(dataset_pack(tiny_dataset, config), tmp_path / "store.h5", workers=1)
    text = re.sub("^```.*$", "", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    page = doctest.DocTestParser().get_doctest(text, {}, "api", str(DOCS), 0)
    assert len(page.examples) > 15
    assert doctest.DocTestRunner().run(page).failed == 0
    assert np.asarray(nib.nifti1.load("mask.nii.gz").dataobj).shape == (26, 28, 24)


def test_records_have_every_axis_and_name_what_could_not_be_used(tmp_path: Path) -> None:
    files = write_results(tmp_path / "runs")
    files.write("transfer-2", "{")
    with pytest.warns(LeftOut, match=r"transfer-2/result\.json"):
        rows = hpcseg.read_results(tmp_path / "runs")
    assert [row["run"] for row in rows] == ["baseline-2"] * 2
    assert {"strategy", "labelled", "fold", "seed", "set", "case", "class", "dsc", "hd95", "stale"} <= rows[0].keys()
    assert rows[0]["hd95"] is None and rows[0]["fold"] == 0


def test_a_run_of_no_grid_that_teaches_others_has_no_records(tmp_path: Path) -> None:
    files = write_results(tmp_path / "runs")
    files.record["runs"][0]["cells"] = []
    files.save()
    assert {row["run"] for row in hpcseg.read_results(tmp_path / "runs")} == {"transfer-2"}


@pytest.mark.parametrize("kind", [np.bool_, np.int64, np.uint16, np.float16, np.float64, ">i2"])
def test_arrays_of_any_type_become_scans(kind: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    with as_file(values, np.diag([2, 2, 2, 1])) as path:
        np.testing.assert_array_equal(nib.nifti1.load(path).get_fdata(), values.astype(float))
    assert not path.exists()


def test_an_image_in_memory_goes_in_with_its_values_whatever_its_header_was_made_for(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    values = np.linspace(-1000, 1000, 24, dtype=np.float32).reshape(2, 3, 4)
    for kept in (values, values.astype(np.int16)):
        with as_file(nib.Nifti1Image(kept, np.diag([2, 2, 2, 1]), header)) as path:
            np.testing.assert_array_equal(nib.nifti1.load(path).get_fdata(), kept)
    scaled = nib.Nifti1Image(values.astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(0.1, 7)
    nib.save(scaled, tmp_path / "scaled.nii")
    with as_file(nib.nifti1.load(tmp_path / "scaled.nii")) as path:
        np.testing.assert_array_equal(read_image(path)[0], read_image(tmp_path / "scaled.nii")[0])


@pytest.mark.parametrize(
    ("scan", "affine", "says"),
    [
        (np.zeros((4, 4, 4)), None, "an array: give a path, a nibabel image, or a 3-D array with its affine"),
        (np.zeros((4, 4, 4)), np.eye(3), "affine: places no voxels; give 4 × 4"),
        (np.zeros((4, 4, 4)), np.diag([1, 1, 0, 1]), "affine: places no voxels"),
        (np.zeros((4, 4, 4)), np.diag([1, 1, np.nan, 1]), "affine: places no voxels"),
        (np.zeros((4, 4, 4)), [["a"]], "affine: places no voxels"),
        (np.zeros((4, 4, 4)), [[1, 2], [3]], "affine: places no voxels"),
        (np.zeros((4, 4, 4)), np.ones((4, 4)) + np.eye(4), "last row is 0 0 0 1"),
        (np.zeros((4, 4)), np.eye(4), "an object of type ndarray"),
        (np.zeros((4, 4, 4), complex), np.eye(4), "the array: voxels of type complex128 are not plain"),
        (None, None, "an object of type NoneType"),
        ("scan.nii.gz", np.eye(4), r"affine: scan\.nii\.gz has one of its own; leave affine out"),
        (nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), np.eye(4), "affine: the image has one of its own"),
    ],
)
def test_what_is_no_scan_is_refused(scan: object, affine: object, says: str) -> None:
    with pytest.raises(BadInput, match=says), as_file(scan, affine):  # type: ignore[arg-type]
        pass


def test_what_is_wrong_with_a_scan_in_memory_names_no_file() -> None:
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 2, 3] = np.nan
    for scan, affine, name in ((values, np.eye(4), "array"), (nib.Nifti1Image(values, np.eye(4)), None, "image")):
        with pytest.raises(BadInput, match=f"^the {name}: 1 voxel NaN"), as_file(scan, affine) as path:
            read_image(path)


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, hpcseg; print(hpcseg.__version__, {'torch', 'numpy', 'typer', 'hpcseg.api'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{hpcseg.__version__} set()\n"
    with pytest.raises(AttributeError, match=r"no attribute 'load'; it has .*load_model"):
        hpcseg.load  # noqa: B018


@pytest.mark.parametrize(
    ("wish", "says"),
    [({"mode": "tile"}, "there are tiles, paper"), ({"device": "gpu"}, "give another"), ({"device": "meta:x"}, "give")],
)
def test_a_mode_or_device_that_there_is_not_is_refused(wish: Any, says: str, tmp_path: Path) -> None:
    path = save(model(), tmp_path)
    with pytest.raises(BadInput, match=says):
        hpcseg.load_model(path, **wish)
