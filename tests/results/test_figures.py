"""Figures: files that open, at print size, with what is missing marked or named."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.results.collect import collect
from hpcseg.results.figures import draw_figures, read_history
from hpcseg.results.style import DPI, PAGE, SETTINGS, colours
from hpcseg.spec import CaseRef, SourceRef, TrainSpec

STRATEGIES = ("baseline", "transfer", "multitask")


def _figure(kind: str, **keys: object) -> dict[str, object]:
    return {
        "name": kind,
        "title": f"The {kind}",
        "kind": kind,
        "x": "labelled",
        "hue": "strategy",
        "set": "test",
    } | keys


def _fill(files, as_scores, *, labelled: tuple = (2, 4), folds: int = 2) -> None:
    rng = np.random.default_rng(0)
    for strategy in STRATEGIES:
        for n in labelled:
            for fold in range(folds):
                scores = as_scores(test=list(rng.uniform(0.6, 0.9, 6)))
                lost = (strategy, n, fold) == ("transfer", 2, 1)
                files.run(None if lost else scores, strategy=strategy, labelled=n, fold=fold)


def _write_scan(root: Path, run: str, scan: Path, reference: Path) -> None:
    """A run.json that names the scan, and a mask of it, as a finished run leaves them."""
    source = SourceRef(store=Path("pack/x/store.h5"), cases=("a",))
    case = CaseRef(name="test0", image=scan, label=reference)
    spec = TrainSpec(
        id=run, config=RunConfig(), labelled=source, validation=source, spacing_zyx=(2, 2, 2), classes=(),
        padding=-1000.0, pyramid_clip=None, validation_scans=(), test_scans=(case,),
    )  # fmt: skip
    folder = root / "train" / run
    (folder / "predictions" / "test").mkdir(parents=True)
    (folder / "run.json").write_text(spec.model_dump_json())
    mask = nib.load(reference)
    moved = np.roll(np.asarray(mask.dataobj), 1, axis=1)
    nib.save(nib.Nifti1Image(moved, mask.affine), folder / "predictions" / "test" / "test0.nii.gz")


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Path]:
    image = np.full((20, 24, 16), -1000, np.int16)
    image[2:-2, 2:-2] = 40
    label = np.zeros(image.shape, np.uint8)
    label[6:14, 8:16, 4:12] = 1
    paths = tmp_path / "scan.nii.gz", tmp_path / "label.nii.gz"
    for path, array in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    return paths


def test_every_kind_of_figure_is_written_as_png_and_pdf(sweep_files, as_scores, tmp_path: Path, scan) -> None:
    files = sweep_files()
    _fill(files, as_scores)
    for run in files.record["runs"]:
        _write_scan(files.root, run["id"], *scan)
        history = [{"epoch": e, "training_loss": 1 / e, "validation_loss": None, "learning_rate": 1e-3} for e in (1, 2)]
        path = files.root / "train" / run["id"] / "history.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in history))
    files.record["figures"] = [_figure(kind) for kind in ("box", "curve", "examples", "learning")]
    root, told = files.save(), []
    before = dict(matplotlib.rcParams)
    paths = draw_figures(collect(root), root, tmp_path / "figures", report=told.append)
    assert told == []
    assert [path.name for path in paths] == [
        f"{kind}.{ending}" for kind in ("box", "curve", "examples", "learning") for ending in ("png", "pdf")
    ]
    for path in paths:
        if path.suffix == ".png":
            pixels = imread(path)
            assert pixels.shape[1] <= PAGE * DPI + 1
            assert pixels[..., :3].std() > 0.02  # not blank
        else:
            assert path.read_bytes().startswith(b"%PDF")
            assert b"/FontFile2" in path.read_bytes()  # embedded TrueType
    assert dict(matplotlib.rcParams) == before


def test_the_same_results_give_the_same_bytes(sweep_files, as_scores, tmp_path: Path) -> None:
    files = sweep_files()
    _fill(files, as_scores)
    files.record["figures"] = [_figure("box"), _figure("curve")]
    root = files.save()
    one, other = (draw_figures(collect(root), root, tmp_path / name) for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_a_figure_without_anything_to_show_is_named_not_drawn(sweep_files, as_scores, tmp_path: Path) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=2, fold=0)
    files.record["figures"] = [_figure(kind) for kind in ("box", "curve", "examples", "learning")]
    root, told = files.save(), []
    assert draw_figures(collect(root), root, tmp_path / "figures", report=told.append) == []
    assert [line.split()[1] for line in told] == ["box", "curve", "examples", "learning"]
    assert "no run has results for the test set yet" in told[0]
    assert "save_masks" in told[2]


def test_a_history_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_history(path) == []
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_history(path) == [{"epoch": 1}, {"epoch": 2}]
    path.write_text('{"epo\n{"epoch": 2}\n')
    with pytest.raises(BadInput, match="line 1"):
        read_history(path)


def test_a_strategy_has_one_colour_everywhere_and_no_two_values_share_one() -> None:
    assert colours(("baseline", "multitask"))["multitask"] == colours(STRATEGIES)["multitask"]
    assert len(set(colours((3, 5, 7)).values()) | set(colours(STRATEGIES).values())) >= 3
    assert SETTINGS["pdf.fonttype"] == 42
