"""Figures: files that open, at print size, with what is missing marked or named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput, LeftOut
from hpcseg.results.collect import collect
from hpcseg.results.figures.figures import KINDS, draw, draw_figures
from hpcseg.results.figures.scores import x_positions
from hpcseg.results.figures.style import COLOURS, DPI, HATCHES, MARKERS, PAGE, SETTINGS, YELLOW, looks
from hpcseg.sections import spelled
from hpcseg.spec import CaseRef, SourceRef, TrainSpec
from hpcseg.study.tables import FigureDefinition
from hpcseg.training.history import read_history
from hpcseg.training.strategy import strategies
from tests.results.artists import contents, drawn, problems, texts

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


def _fill(files, as_scores, *, labelled: tuple[int | str, ...] = (2, 4), folds: int = 2) -> None:
    rng = np.random.default_rng(0)
    for strategy in STRATEGIES:
        for n in labelled:
            for fold in range(folds):
                scores = as_scores(test=list(rng.uniform(0.6, 0.9, 6)))
                lost = (strategy, n, fold) == ("transfer", 2, 1)
                files.run(None if lost else scores, strategy=strategy, labelled=n, fold=fold)


def _write_scan(root: Path, run: str, scan: Path, reference: Path, mark: str = "") -> None:
    """A run.json that names the scan, and a mask of it, as a finished run leaves them."""
    source = SourceRef(store=Path("pack/x/store.h5"), cases=("a",))
    case = CaseRef(name="test0", image=scan, label=reference, mark=mark)
    spec = TrainSpec(
        id=run, config=RunConfig(), labelled=source, validation=source, spacing_zyx=(2, 2, 2), classes=(),
        padding=-1000.0, pyramid_clip=None, validation_scans=(), test_scans=(case,),
    )  # fmt: skip
    folder = root / "train" / run
    (folder / "predictions" / "test").mkdir(parents=True)
    (folder / "run.json").write_text(spec.model_dump_json())
    mask = nib.nifti1.load(reference)
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
    before = dict(matplotlib.rcParams)
    drawings = draw_figures(collect(files.save()), tmp_path / "figures")
    assert [drawing.why_not for drawing in drawings] == [""] * 4
    paths = [path for drawing in drawings for path in drawing.files]
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
    files.record["figures"] = [_figure("box")]
    collection = collect(files.save())
    one, other = (draw_figures(collection, tmp_path / name) for name in ("one", "other"))
    assert contents(one) == contents(other)


def test_a_figure_without_anything_to_show_is_named_not_drawn(sweep_files, as_scores, tmp_path: Path) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=2, fold=0)
    files.record["figures"] = [_figure(kind) for kind in ("box", "curve", "examples", "learning")]
    drawings = draw_figures(collect(files.save()), tmp_path / "figures")
    assert not any(drawing.files for drawing in drawings)
    assert [drawing.remark.split()[1] for drawing in drawings] == ["box", "curve", "examples", "learning"]
    assert drawings[0].why_not == "no run has results for the test set yet"
    assert "save_masks" in drawings[2].why_not


def test_a_history_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_history(path) == []
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_history(path) == [{"epoch": 1}, {"epoch": 2}]
    path.write_text('{"epo\n{"epoch": 2}\n')
    with pytest.warns(LeftOut, match="line 1"):
        assert read_history(path) == [{"epoch": 2}]
    path.write_text('{"epoch": null}\n{"epoch": 2, "training_loss": "x"}\n{"epoch": 3}\n')
    with pytest.warns(LeftOut, match="a line is no epoch"):
        assert read_history(path) == [{"epoch": 3}]


def _legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _points(line) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The points of a line, x and y."""
    found: np.ndarray[Any, np.dtype[np.float64]] = np.asarray(line.get_xydata())
    return found


def _means_shown(figure) -> list[float]:
    lines = figure.axes[0].lines
    return [float(line.get_ydata()[0]) for line in lines if line.get_markerfacecolor() == YELLOW]


def test_boxes_show_the_scores_of_all_folds_and_their_means(sweep_files, as_scores) -> None:
    files = sweep_files()
    for strategy, offset in (("baseline", 0.0), ("transfer", 0.1)):
        for fold in (0, 1):
            files.run(
                as_scores(test=[0.6 + offset, 0.7 + offset + 0.05 * fold]), strategy=strategy, labelled=2, fold=fold
            )
    figure = drawn(collect(files.save()), kind="box", title=r"$\frac$")
    assert r"$\frac$" in {said for said, _, _ in texts(figure)}
    assert _means_shown(figure) == pytest.approx([0.6625, 0.7625])
    assert _legend(figure) == ["Baseline", "S-TL", "mean"]
    assert figure.axes[0].get_ylim()[0] < 0.6
    assert any("4 scores of 2 folds each; seed 0" in said for said, _, _ in texts(figure))


def test_a_curve_shows_means_with_intervals_and_hollow_markers_where_runs_are_missing(sweep_files, as_scores) -> None:
    files = sweep_files()
    for n, scores in ((2, [0.5, 0.7]), (4, [0.7, 0.9])):
        for fold in (0, 1):
            lost = (n, fold) == (4, 1)
            files.run(None if lost else as_scores(test=scores), strategy="baseline", labelled=n, fold=fold)
    figure = drawn(collect(files.save()), kind="curve")
    curve, *rest = figure.axes[0].lines
    assert np.asarray(curve.get_xdata()).tolist() == [1, 2]  # log2 n
    assert np.asarray(curve.get_ydata()).tolist() == pytest.approx([0.6, 0.8])
    markers = [line for line in rest if line.get_marker() == "o"]
    assert [marker.get_markerfacecolor() for marker in markers] == [COLOURS[0], "white"]
    assert any("Hollow: some runs are missing." in said.replace("\n", " ") for said, _, _ in texts(figure))


def test_curves_cross_where_means_do_however_far_apart_their_points_are(sweep_files, as_scores) -> None:
    files = sweep_files()
    for n, score in ((2, 0.4), (4, 0.6), (8, 0.9)):
        for better, strategy in enumerate(("transfer", "baseline")):  # better everywhere, by little on a steep line
            files.run(as_scores(test=[score + 0.005 * better] * 2), strategy=strategy, labelled=n, fold=0)
    axes = drawn(collect(files.save()), kind="curve").axes[0]
    baseline, transfer = [_points(line) for line in axes.lines if len(_points(line)) > 2]
    at = np.linspace(1, 3, 99)
    assert (np.interp(at, *baseline.T) > np.interp(at, *transfer.T)).all()
    marks = [_points(line)[0, 0] for line in axes.lines if line.get_marker() in {"o", "s"}]
    assert len({round(mark, 2) for mark in marks}) == 6  # beside each other


def test_what_has_no_result_at_all_is_named_and_takes_no_room(sweep_files, as_scores) -> None:
    files = sweep_files()
    for strategy in ("baseline", "transfer", "multitask"):
        for n in (2, 4):
            lost = strategy == "transfer" or n == 4
            files.run(None if lost else as_scores(test=[0.5, 0.7]), strategy=strategy, labelled=n, fold=0)
    collection = collect(files.save())
    for kind in ("box", "curve"):
        figure = drawn(collection, kind=kind)
        assert [text for text in _legend(figure) if text != "mean"] == ["Baseline", "S-MTL"]
        assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["2"]
        assert any("No results yet: S-TL, n = 4." in said.replace("\n", " ") for said, _, _ in texts(figure))


@pytest.mark.parametrize("count", [24, 25])
def test_the_scores_of_small_boxes_are_all_shown(sweep_files, as_scores, count: int) -> None:
    files = sweep_files()
    scores = [0.5 + 0.01 * rank for rank in range(count)]
    files.run(as_scores(test=scores), strategy="baseline", labelled=2, fold=0)
    figure = drawn(collect(files.save()), kind="box")
    points = [_points(line)[:, 1].tolist() for line in figure.axes[0].lines if line.get_markersize() == 1.8]
    assert points == ([pytest.approx(scores)] if count == 24 else [])
    assert any("Points: single scores." in said.replace("\n", " ") for said, _, _ in texts(figure)) is bool(points)


def test_numbers_of_volumes_stand_on_a_logarithmic_axis_with_all_in_its_place() -> None:
    assert x_positions((2, 4, 64, "all"), {"all": 105}) == pytest.approx({2: 1, 4: 2, 64: 6, "all": 6.714}, abs=1e-3)
    assert x_positions((2, 4, "all"), {}) == {2: 0, 4: 1, "all": 2}
    assert x_positions((0.1, 0.3, 1.0), {}) == {0.1: 0, 0.3: 1, 1.0: 2}
    assert x_positions((False, True), {}) == {False: 0, True: 1}


def test_values_are_written_as_the_tables_of_the_sweep_write_them(sweep_files, as_scores) -> None:
    files = sweep_files()
    axis = "autoencoder.with_validation"
    for value in (True, False):
        files.run(as_scores(test=[0.5, 0.6]), strategy="transfer", labelled=2, fold=0, **{axis: value})
    files.record["figures"] = [_figure("box", hue=axis)]
    plain = _legend(drawn(collect(files.save()), kind="box", hue=axis))
    assert plain == [f"{axis}:", "False", "True", "mean"]  # the axis is named where its values are bare
    labels = {"true": "with validation images", "false": "without"}
    files.record["tables"] = [{"name": "t", "columns": axis, "column_labels": labels}]
    collection = collect(files.save())
    assert _legend(drawn(collection, kind="box", hue=axis)) == ["without", "with validation images", "mean"]
    assert _legend(drawn(collection, kind="curve", hue=axis)) == ["without", "with validation images"]
    figure = drawn(collection, kind="box", x=axis, hue="strategy")
    assert [tick.get_text().replace("\n", " ") for tick in figure.axes[0].get_xticklabels()] == [
        "without",
        "with validation images",
    ]
    assert _legend(figure) == ["mean"]  # one strategy: nothing to tell apart


def test_learning_curves_are_means_over_the_runs_that_reached_the_epoch(sweep_files) -> None:
    files = sweep_files()
    for fold, losses in ((0, [1.0, 0.5]), (1, [0.6])):
        run = files.run(None, strategy="transfer", labelled=2, fold=fold)
        path = files.root / "train" / run / "history.jsonl"
        path.parent.mkdir(parents=True)
        dice = [0.2 + 0.4 * fold, None, 0.4]
        lines = [{"epoch": e, "training_loss": loss, "validation_dice": dice} for e, loss in enumerate(losses, start=1)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = drawn(collect(files.save()), kind="learning")
    assert np.asarray(figure.axes[0].lines[0].get_ydata()).tolist() == pytest.approx([0.8, 0.5])
    assert figure.axes[0].get_title(loc="left") == "n = 2"  # one panel needs no letter
    assert all(tick.is_integer() for tick in figure.axes[0].get_xticks())
    loss, patches = figure.axes
    assert (loss.get_yscale(), patches.get_yscale()) == ("log", "linear")
    assert np.asarray(patches.lines[0].get_ydata()).tolist() == pytest.approx([0.4, 0.3])  # of classes that are there
    assert (loss.get_ylabel(), patches.get_ylabel(), loss.get_xlabel(), patches.get_xlabel()) == (
        *("Loss", "Dice of patches"),
        *("", "Epoch"),
    )


def test_a_figure_may_show_another_metric_in_its_unit(sweep_files, as_scores) -> None:
    files = sweep_files()
    scores = as_scores(test=[0.5, 0.7])
    for score, distance in zip(scores["test"], (12.0, 4.0), strict=True):
        score["hd95"] = distance
    files.run(scores, strategy="baseline", labelled=2, fold=0)
    figure = drawn(collect(files.save()), kind="box", metric="hd95")
    assert figure.axes[0].get_ylabel() == "HD95 (mm)"
    assert _means_shown(figure) == pytest.approx([8.0])
    low, high = figure.axes[0].get_ylim()
    assert low < 4
    assert high > 12


def test_no_text_is_cut_covered_or_too_small(sweep_files, as_scores, scan) -> None:
    files = sweep_files()
    _fill(files, as_scores, labelled=(2, 4, 16, 64, "all"))
    for run in files.record["runs"]:
        _write_scan(files.root, run["id"], *scan)
        path = files.root / "train" / run["id"] / "history.jsonl"
        lines = [{"epoch": e, "training_loss": 1 / e, "validation_dice": [1 - 1 / e]} for e in range(1, 400)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    collection = collect(files.save())
    title = "DSC on the test set, with supplementary volumes and a title that does not end soon"
    for kind in ("box", "curve", "learning", "examples"):
        figure = drawn(collection, kind=kind, title=title)
        assert problems(figure) == []
    (bar,) = (line for axes in figure.axes for line in axes.lines)
    low, high = _points(bar)[:, 0]
    assert "10 mm" in {said for said, _, _ in texts(figure)}
    assert bar.axes is not None
    assert (high - low) * bar.axes.viewLim.width == pytest.approx(-10 / 2)  # voxels of 2 mm, front to the left


@pytest.mark.parametrize("names", [("Method 1, iso", "Method 2, aniso"), ("autoencoder.with_validation",) * 2])
def test_long_names_of_grids_are_wrapped_or_slanted(sweep_files, as_scores, names: tuple[str, ...]) -> None:
    files = sweep_files()
    for number in range(6):
        grid = f"{names[number % 2]}, {number}"
        files.run(as_scores(test=[0.5, 0.7]), grids=grid, strategy="baseline", labelled=2, fold=number)
    figure = drawn(collect(files.save()), kind="box", x="grid")
    assert [one for one in problems(figure) if "is cut" in one] == []
    slanted = {tick.get_rotation() for tick in figure.axes[0].get_xticklabels()}
    assert slanted == ({35.0} if "." in names[0] else {0.0})


def test_every_kind_that_a_sweep_file_may_name_can_be_drawn() -> None:
    assert spelled(FigureDefinition.model_fields["kind"].annotation) == " or ".join(f'"{kind}"' for kind in KINDS)


def test_what_differs_in_colour_differs_in_grey_too() -> None:
    assert len(set(MARKERS)) == len(set(HATCHES)) == len(set(COLOURS)) == 8


def test_a_strategy_has_one_colour_everywhere_and_no_two_values_share_one() -> None:
    assert looks(("baseline", "multitask"))["multitask"] == looks(STRATEGIES)["multitask"]
    assert len({looks(("baseline", 3, 5))[value].colour for value in ("baseline", 3, 5)}) == 3
    eight = ("plain", "recipe", *strategies())
    assert len({looks(eight)[value] for value in eight}) == len(eight) == 8
    assert SETTINGS["pdf.fonttype"] == 42


def test_colours_that_begin_again_have_other_markers_and_hatches() -> None:
    of = looks(tuple(range(20)))
    for kind in ("marker", "hatch", "line"):
        assert len({(look.colour, getattr(look, kind)) for look in of.values()}) == 20, kind


def test_a_curve_of_each_class(sweep_files, as_scores) -> None:
    files = sweep_files()
    for labelled in (2, 4, "all"):
        files.run(as_scores(test=[[0.5, 0.7], [0.6, 0.8]]), strategy="baseline", labelled=labelled, fold=0)
    figure = drawn(collect(files.save()), kind="curve", hue="class")
    assert {"class:", "1", "2"} <= {said for said, *_ in texts(figure)}


def test_epochs_stand_on_one_axis_whatever_was_measured_how_often(sweep_files) -> None:
    files = sweep_files()
    run = files.run(None, strategy="baseline", labelled=2, fold=0)
    path = files.root / "train" / run / "history.jsonl"
    path.parent.mkdir(parents=True)
    lines = [{"epoch": e, "training_loss": 1 / e} | ({"validation_dsc": [0.5]} if e >= 8 else {}) for e in range(1, 11)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = draw(FigureDefinition(name="l", kind="learning"), collect(files.save()))
    assert not isinstance(figure, str)
    loss, dsc = (axes for axes in figure.axes if axes.get_visible())
    assert loss.get_xlim() == dsc.get_xlim() and loss.get_xlim()[0] <= 1


def test_examples_without_their_scans_are_left_out_with_a_reason(
    sweep_files, as_scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sweep_files()
    run = files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=2)
    mask = files.root / "train" / run / "predictions" / "validation" / "validation0.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.touch()
    collection = collect(files.save())

    def gone(*_: object) -> None:
        raise BadInput("/old/scan.nii.gz: no such file")

    monkeypatch.setattr("hpcseg.results.figures.examples._exemplar", gone)
    definition = FigureDefinition(name="e", kind="examples", set="validation")
    assert draw(definition, collection) == "/old/scan.nii.gz: no such file"


def test_examples_are_of_one_seed_and_say_which(sweep_files, as_scores, scan: tuple[Path, Path]) -> None:
    files = sweep_files()
    for seed in (1, 2):
        run = files.run(as_scores(test=[0.5 + 0.1 * seed]), strategy="baseline", labelled=2, fold=0, seed=seed)
        _write_scan(files.root, run, *scan)
    figure = draw(FigureDefinition(name="e", kind="examples"), collect(files.save()))
    assert not isinstance(figure, str) and "0.600‡" in {text.get_text() for text in figure.axes[0].texts}
    assert "with its DSC; fold 0, seed = 1." in figure.texts[0].get_text().replace("\n", " ")


def test_examples_show_no_label_but_that_which_was_measured(sweep_files, as_scores, scan: tuple[Path, Path]) -> None:
    files = sweep_files()
    for strategy, mark in (("baseline", ""), ("transfer", "0123456789abcdef")):
        run = files.run(as_scores(test=[0.5]), strategy=strategy, labelled=2)
        _write_scan(files.root, run, *scan, mark)
    collection = collect(files.save())
    definition = FigureDefinition(name="e", kind="examples")
    said = draw(definition, collection)
    assert isinstance(said, str) and "label.nii.gz was changed after this run was planned" in said
    first = replace(collection.runs[0], stale="the run was planned again")
    figure = draw(definition, replace(collection, runs=(first,)))
    assert not isinstance(figure, str) and {"0.500‡"} <= {text.get_text() for text in figure.axes[0].texts}
    assert figure.texts[0].get_text().replace("\n", " ").endswith("‡: a stale result.")
