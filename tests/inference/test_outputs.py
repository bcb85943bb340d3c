"""What `hpcseg segment` is given, and what is refused or left out before a network is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.inference.outputs import free_images, models_and_images
from tests.inference.untrained import model, save


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_models_come_first_then_scans() -> None:
    given = paths("runs/a", "b/model.pt", "c.nii.gz", "d.nii")
    assert models_and_images(given) == (given[:2], given[2:])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.nii.gz"], "no model before it"),
        (["runs/a", "runs/b"], r"runs/b: no scan; give NIfTI scans"),
        (["runs/a", "b.nii", "c.mha", "d.nii"], r"c\.mha: neither"),
    ],
)
def test_what_is_neither_model_nor_scan_is_one_line(names: list[str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        models_and_images(paths(*names))


def test_scans_are_also_folders_patterns_and_lists_and_runs_are_models(image: Path, tmp_path: Path) -> None:
    folder, run = image.parent, tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    scans = sorted(folder.glob("*.nii.gz"))
    assert scans
    (tmp_path / "named.csv").write_text(f"case,image\na,{image}\n\n")
    (tmp_path / "plain.csv").write_text("".join(f"{path}\n" for path in scans))
    for given, expected in (
        ([folder], scans),
        ([folder / "*.nii.gz"], scans),
        ([tmp_path / "named.csv"], [image]),
        ([tmp_path / "plain.csv", image], [*scans, image]),
    ):
        assert models_and_images([run, *given]) == ([run], expected)
    (tmp_path / "bad.csv").write_text("image\nscan.png\n")
    (tmp_path / "empty.csv").write_text("image\n")
    for path, says in (
        (folder / "absent*", "no NIfTI scan matches"),
        (tmp_path / "bad.csv", r"lists 'scan\.png', which is no NIfTI"),
        (tmp_path / "empty.csv", "lists no scan"),
        (tmp_path / "absent.csv", "absent"),
    ):
        with pytest.raises(BadInput, match=says):
            models_and_images([run, path])


def test_labels_beside_their_scans_are_not_taken_for_scans(tmp_path: Path) -> None:
    model, folder = tmp_path / "model.pt", tmp_path / "scans"
    folder.mkdir()
    for name in ("a", "a_seg", "b", "b-label", "c_mask_of_what"):
        (folder / f"{name}.nii.gz").touch()
    notes: list[str] = []
    _, images = models_and_images([model, folder], notes.append)
    assert [image.name for image in images] == ["a.nii.gz", "b.nii.gz", "c_mask_of_what.nii.gz"]
    assert len(notes) == 1 and "left out as labels, by their names: a_seg.nii.gz, b-label.nii.gz;" in notes[0]
    named = folder / "a_seg.nii.gz"
    assert models_and_images([model, named], notes.append) == ([model], [named]) and len(notes) == 1


def test_where_scans_lie_deeper_is_said(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"Tiny: its scans lie deeper, in .*/imagesTr, .*/imagesTs, .* and 1 more; give"):
        models_and_images([tmp_path, tiny_dataset])
    with pytest.raises(BadInput, match=r"its scans lie deeper, in .*/Tiny/imagesTr"):
        models_and_images([tmp_path, tiny_dataset.parent])


def test_a_folder_in_which_no_mask_can_be_written_is_refused_at_once(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file: is no folder; give another --to"):
        free_images([image], tmp_path / "file" / "masks", force=False, skip_existing=False)
    assert free_images([image], tmp_path / "new" / "masks", force=False, skip_existing=False) == [image]
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
    with pytest.raises(BadInput, match=f"{tmp_path}: cannot be written in by this user; give another --to"):
        free_images([image], tmp_path / "new" / "masks", force=False, skip_existing=False)


def test_scans_whose_masks_exist_are_left_out_or_refused(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.nii.gz"
    other.write_bytes(image.read_bytes())
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / image.name).touch()
    both = [image, other]
    with pytest.raises(BadInput, match=r"exists; choose another --to, --force .* --skip-existing"):
        free_images(both, masks, force=False, skip_existing=False)
    assert free_images(both, masks, force=True, skip_existing=False) == both
    assert free_images(both, masks, force=False, skip_existing=True) == [other]
    for force, skip_existing in ((True, False), (False, True)):  # a scan is never taken for its mask
        with pytest.raises(BadInput, match="is a scan, and no mask; give another --to"):
            free_images([other], tmp_path, force=force, skip_existing=skip_existing)


def test_torch_is_not_loaded_to_find_that_masks_exist(image: Path, tmp_path: Path) -> None:
    path, masks = save(model(), tmp_path), tmp_path / "masks"
    masks.mkdir()
    (masks / image.name).touch()
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hpcseg.cli import app\n"
        "for more in ([], ['--skip-existing']):\n"
        "    done = CliRunner().invoke(app, ['segment', *sys.argv[1:], *more])\n"
        "    print(type(done.exception).__name__, 'torch' in sys.modules)"
    )
    words = [str(path), str(image), "--to", str(masks)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["BadInput False", "NoneType False"]


def test_a_mask_that_exists_is_not_taken_for_that_of_another_scan_of_the_name(image: Path, tmp_path: Path) -> None:
    (tmp_path / "p2").mkdir()
    other = tmp_path / "p2" / image.name
    other.write_bytes(image.read_bytes())
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / image.name).touch()
    with pytest.raises(BadInput, match="a second scan named"):
        free_images([image, other], tmp_path / "masks", force=False, skip_existing=True)
