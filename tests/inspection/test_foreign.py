"""Files and folders that are not hpcseg's: one line that says what they are and what to do, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import BadInput
from hpcseg.inspection.dataset_findings import inspect_scan
from hpcseg.inspection.foreign import refuse_file, refuse_folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("slice.dcm", bytes(128) + b"DICM" + bytes(900), "a DICOM slice; convert its series to NIfTI"),
        ("IM0001", bytes(128) + b"DICM" + bytes(900), "a DICOM slice"),
        ("scan.nrrd", b"NRRD0004\n# comment\n", "an NRRD file; convert it to NIfTI"),
        ("scan.mha", b"ObjectType = Image\n", "a MetaImage file"),
        ("notes.txt", b"words\n" * 9, "a text file; give a scan"),
        ("my.toml", b"[run]\n", "a TOML file; a sweep file is shown by: hpcseg sweep"),
        ("other.h5", b"\x89HDF\r\n\x1a\n" + bytes(900), "an HDF5 file, and no store of hpcseg"),
        ("scan.hdr", b"\x5c\x01\x00\x00" + bytes(900), "an Analyze or NIfTI header"),
        ("empty", b"", "an empty file"),
        ("zeros", bytes(4096), "of no format that is known here"),
    ],
)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        refuse_file(tmp_path / name)
    assert said in str(caught.value) and "\n" not in str(caught.value) and "delete" not in str(caught.value)


def test_a_folder_is_named_for_what_is_in_it(tmp_path: Path, tiny_dataset: Path) -> None:
    shutil.copytree(tiny_dataset / "imagesTs", tmp_path / "scans")
    (tmp_path / "series").mkdir()
    (tmp_path / "series/1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "runs/train").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    for folder, said in (
        ("scans", "has no dataset.json, but the scans case_007.nii.gz"),
        ("series", "holds DICOM slices; convert"),
        ("runs", "a folder of runs; see hpcseg status"),
        ("nothing", "has no dataset.json, so that it is no dataset; give a scan"),
    ):
        with pytest.raises(BadInput, match=said):
            refuse_folder(tmp_path / folder)
    refuse_folder(tiny_dataset)


def test_what_is_foreign_is_named_without_what_reads_scans_and_a_scan_is_shown_without_what_compares_them(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("words")
    scan = next((tiny_dataset / "imagesTr").iterdir())
    script = f"""
import sys
from pathlib import Path
from hpcseg.commands.data import _inspect
from hpcseg.errors import BadInput
for name in ("{tmp_path}/notes.txt", "{tmp_path}"):
    try:
        _inspect(Path(name), None, None, False, 1)
    except BadInput as error:
        print(error)
print({{"numpy", "nibabel", "h5py", "torch"}} & set(sys.modules))
_inspect(Path("{scan}"), None, None, False, 1)
print({{"scipy.sparse.csgraph", "h5py", "torch"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text, folder, first, second = done.stdout.splitlines()
    assert "a text file" in text and "no dataset.json" in folder and {first, second} == {"set()"}, done.stdout


def test_a_scan_is_shown_with_its_label_or_without(tiny_dataset: Path, tmp_path: Path) -> None:
    image = tiny_dataset / "imagesTr/case_001.nii.gz"
    found = inspect_scan(image)
    assert json.loads(json.dumps(found)) == found
    (case,) = found["scan"]
    assert (case["shape_zyx"], case["spacing_zyx"], case["orientation"]) == ([24, 28, 26], [2.0, 2.0, 2.0], "RAS")
    assert case["labels"].keys() == {"0", "1", "2"} and not found["problems"]
    alone = shutil.copy(image, tmp_path / "alone.nii.gz")
    assert inspect_scan(Path(alone))["scan"][0]["labels"] is None
    label = tiny_dataset / "labelsTr/case_001.nii.gz"
    assert inspect_scan(Path(alone), label)["scan"][0]["labels"] == case["labels"]
    assert inspect_scan(label)["scan"][0]["intensity_max"] == 2
    (tmp_path / "alone.nii.gz").write_bytes(b"cut")
    (problem,) = inspect_scan(Path(alone))["problems"]
    assert "not a readable NIfTI scan" in problem


def test_on_the_command_line_a_scan_is_a_table_and_units_are_named(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.diag([20.0, 20, 20, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "scan.nii.gz")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "scan.nii.gz")], env={"COLUMNS": "200"})
    assert done.exit_code == 0 and "0.02 × 0.02 × 0.02" in done.stdout and "unit µm" in done.stdout
    assert "lengths are not in mm in the header; they are turned into mm (µm)" in done.output


def test_only_stores_are_replaced_by_force(tmp_path: Path, tiny_dataset: Path) -> None:
    content = (tiny_dataset / "imagesTr/case_001.nii.gz").read_bytes()
    victim, link = tmp_path / "scan.nii.gz", tmp_path / "link.h5"
    victim.write_bytes(content)
    link.symlink_to(victim)
    (tmp_path / "folder").mkdir()
    (tmp_path / "cell.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(99))
    for target in (victim, link, tmp_path / "cell.mat"):
        done = CliRunner().invoke(app, ["pack", str(tiny_dataset), "--to", str(target), "--force"])
        assert isinstance(done.exception, BadInput) and "is no store of hpcseg" in str(done.exception)
    folder = CliRunner().invoke(app, ["pack", str(tiny_dataset), "--to", str(tmp_path / "folder"), "--force"])
    assert folder.exit_code == 2 and "is a directory" in folder.output
    assert victim.read_bytes() == content and not [*tmp_path.glob(".*")]
    for force in ([], ["--force"]):
        command = ["pack", str(tiny_dataset), "--to", str(tmp_path / "s.h5"), "--spacing", "4", "--workers", "1"]
        assert CliRunner().invoke(app, [*command, *force]).exit_code == 0
