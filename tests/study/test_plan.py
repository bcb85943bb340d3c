from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.spec import LabelSpec, PackSpec, PretrainSpec, TrainSpec
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep

PAPER = Path(__file__).parents[2] / "sweeps" / "paper.toml"
Planner = Callable[..., Plan]


def specs(plan: Plan, stage: str) -> list[Any]:
    return [planned.spec for planned in plan.of_stage(stage).values()]


def test_the_papers_sweep_is_125_training_runs_in_under_three_seconds(
    write_tree: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = write_tree(tmp_path / "data")
    sweep = read_sweep(PAPER, ["preprocessing.spacing=1.0"])  # the files are empty: no headers to take a median of
    began = time.process_time()
    plan = make_plan(sweep, data, tmp_path / "runs")
    assert time.process_time() - began < 3.0

    assert plan.as_json()["total_training_runs"] == 125
    cells = [cell["grid"] for cells in plan.cells.values() for cell in cells]
    assert (cells.count("table7"), cells.count("table8")) == (105, 30)
    packs = specs(plan, "pack")
    assert sorted(pack.dataset for pack in packs)[0] == "Task03_Liver"
    assert sum(len(pack.cases) for pack in packs if pack.dataset != "Task03_Liver") == 1277
    assert all(case.label is None for pack in packs if pack.dataset != "Task03_Liver" for case in pack.cases)
    # four levels for each of 7 subsets × 5 folds, and for 2 × 5 with supplementary volumes
    assert len(specs(plan, "pretrain")) == 4 * (7 * 5 + 2 * 5)
    assert [len(s.validation.cases) for s in specs(plan, "train") if s.id.startswith("baseline-n2-")] == [
        26,
        26,
        26,
        26,
        27,
    ]
    assert all(len(spec.test_scans) == 30 for spec in specs(plan, "train"))
    assert not (tmp_path / "runs").exists()


def test_the_ids_of_the_papers_runs_stay_the_same(write_tree: Callable[[Path], Path], tmp_path: Path) -> None:
    """A changed id would orphan every finished run: change this only together with what the results depend on."""
    plan = make_plan(read_sweep(PAPER, ["preprocessing.spacing=1.0"]), write_tree(tmp_path / "data"), tmp_path / "runs")
    known = {
        "Task03_Liver-1.0mm-c962a36aed",
        "Task06_Lung-1.0mm-60adf3a7c4",
        "level0-n2-f0-eb0ac9c95b",
        "level3-nall-f4-39560357a7",
        "level3-nall-f4-d472aa0340",
        "baseline-n2-f0-de0833fb39",
        "transfer-n2-f0-bc1cc8343e",
        "transfer-n32-f1-9869587a01",
        "multitask-nall-f4-246b240667",
    }
    assert known <= plan.stages.keys()
    listed = "\n".join(plan.stages).encode()
    assert hashlib.sha256(listed).hexdigest() == "88d403e260190a775bba430c731e404467c3d9ba0d015e2327f4811b18bd8137"


def test_specifications_are_written_only_for_those_who_ask(plan_study: Planner) -> None:
    plan = plan_study("strategy=[baseline, transfer]", "seed=[0, 1, 2]")
    plan.as_json()
    assert not any("spec" in vars(planned) for planned in plan.stages.values())
    for run_id, planned in plan.stages.items():
        assert planned.spec is planned.spec
        assert (planned.spec.id, planned.spec.stage) == (run_id, planned.stage)
    assert [planned.column for planned in plan.of_stage("pretrain").values()] == 3 * ["0", "1"]


def test_with_a_window_the_papers_autoencoders_are_shared(write_tree: Callable[[Path], Path], tmp_path: Path) -> None:
    sweep = read_sweep(PAPER, ["preprocessing.spacing=1.0", "preprocessing.intensity=window"])
    plan = make_plan(sweep, write_tree(tmp_path / "data"), tmp_path / "runs")
    assert len(specs(plan, "pretrain")) == 4 * 2  # with and without supplementary volumes


def test_a_baseline_needs_its_pack_only(plan_study: Planner) -> None:
    plan = plan_study()
    (pack,), (train,) = specs(plan, "pack"), specs(plan, "train")
    assert isinstance(pack, PackSpec) and isinstance(train, TrainSpec)
    assert plan.stages[train.id].needs == (pack.id,)
    assert pack.classes == ((1, 2),) and pack.padding == -1000.0 and pack.pyramid_clip == (-200.0, 400.0)
    assert len(pack.cases) == 6 and len(train.labelled.cases) == 2 and len(train.validation.cases) == 3
    assert train.labelled.store == Path("pack") / pack.id / "store.h5"
    assert {scan.name for scan in train.validation_scans} == set(train.validation.cases)
    assert all(scan.label is not None for scan in train.validation_scans)


def test_transfer_needs_one_autoencoder_per_level_on_all_training_and_validation_images(plan_study: Planner) -> None:
    plan = plan_study("strategy=transfer")
    (train,), levels = specs(plan, "train"), specs(plan, "pretrain")
    assert [spec.level for spec in levels] == [0, 1]
    assert train.pretrained == tuple(Path("pretrain") / spec.id / "model.pt" for spec in levels)
    assert plan.stages[train.id].needs == (specs(plan, "pack")[0].id, *(spec.id for spec in levels))
    assert isinstance(levels[0], PretrainSpec)
    assert len(levels[0].sources) == 1 and len(levels[0].sources[0].cases) == 6
    without = specs(plan_study("strategy=transfer", "autoencoder.with_validation=false"), "pretrain")
    assert len(without[0].sources[0].cases) == 3


def test_multitask_reads_its_sources_itself(plan_study: Planner) -> None:
    plan = plan_study("strategy=multitask", "data.unlabelled_ts=true")
    (train,) = specs(plan, "train")
    own, unlabelled = train.autoencoder_sources
    assert (len(own.cases), len(unlabelled.cases)) == (6, 2)
    assert not specs(plan, "pretrain")
    assert set(plan.stages[train.id].needs) == set(plan.of_stage("pack"))


def test_masked_pretraining_is_planned_once_for_all_that_fine_tune_it(plan_study: Planner) -> None:
    settings = ("strategy=[masked, transfer]", "preprocessing.intensity=zscore", "labelled=[1, 2]")
    plan = plan_study(*settings, "masked.fine_tune_share=[0.1, 1.0]")
    (masked,) = (spec for spec in specs(plan, "pretrain") if spec.level is None)
    assert isinstance(masked, PretrainSpec) and len(masked.sources[0].cases) == 3
    tuned = [spec for spec in specs(plan, "train") if spec.config.strategy == "masked"]
    assert len(tuned) == 4 and {spec.pretrained for spec in tuned} == {(Path("pretrain") / masked.id / "model.pt",)}
    assert all(masked.id in plan.stages[spec.id].needs for spec in tuned)
    assert len(specs(plan, "pretrain")) == 3 and plan.stages[masked.id].column == ""


def test_self_training_is_a_run_its_labels_and_a_run_each_planned_once(plan_study: Planner) -> None:
    plan = plan_study("strategy=[baseline, selftrain]", "labelled=1", "data.unlabelled_ts=true")
    assert [planned.stage for planned in plan.stages.values()] == ["pack", "pack", "train", "label", "label", "train"]
    first, second = specs(plan, "train")
    assert (first.config.strategy, second.config.strategy) == ("baseline", "selftrain")
    labels = specs(plan, "label")
    assert all(isinstance(spec, LabelSpec) and spec.model == Path("train") / first.id / "model.pt" for spec in labels)
    assert [len(spec.source.cases) for spec in labels] == [2, 2]
    assert not {name for spec in labels for name in spec.source.cases} & {
        *first.labelled.cases,
        *first.validation.cases,
    }
    assert [ref.labels for ref in second.pseudo_labelled] == [Path("label") / one.id / "store.h5" for one in labels]
    assert {one.id for one in labels} < set(plan.stages[second.id].needs) and first.id in plan.stages[
        labels[0].id
    ].needs
    alone = plan_study("strategy=selftrain", "labelled=1", "data.unlabelled_ts=true")
    assert {*alone.stages} == {*plan.stages} and {*alone.cells} == {second.id}
    assert alone.stages[second.id].needs == plan.stages[second.id].needs


def test_rounds_follow_each_other_and_labels_are_made_anew_when_their_parent_changes(plan_study: Planner) -> None:
    plan = plan_study("strategy=selftrain", "labelled=1", "selftrain.rounds=[1, 2]")
    assert [planned.stage for planned in plan.stages.values()] == ["pack", "train", "label", "train", "label", "train"]
    first, once, twice = specs(plan, "train")
    assert (first.config.strategy, once.config.model_extra["selftrain"].rounds) == ("baseline", 1)
    assert once.pretrained == (Path("train") / first.id / "model.pt",)
    assert twice.pretrained == (Path("train") / once.id / "model.pt",)
    other = plan_study("strategy=selftrain", "labelled=1", "selftrain.rounds=[1, 2]", "training.epochs=9")
    assert not {*other.of_stage("label")} & {*plan.of_stage("label")}
    of_another = plan_study("strategy=selftrain", "labelled=1", "selftrain.teacher=teacher")
    assert specs(of_another, "train")[0].config.strategy == "teacher"
    assert not {*of_another.of_stage("label")} & {*plan.of_stage("label")}


def test_where_all_are_labelled_they_are_labelled_again(plan_study: Planner) -> None:
    (spec,) = specs(plan_study("strategy=selftrain", "labelled=all"), "label")
    assert len(spec.source.cases) == 3


def test_a_teacher_sees_the_validation_images_only_where_its_own_key_says_so(plan_study: Planner) -> None:
    (train,) = specs(plan_study("strategy=teacher"), "train")
    (seen,) = train.autoencoder_sources
    assert len(seen.cases) == 3 and not set(seen.cases) & set(train.validation.cases)
    assert set(train.labelled.cases) < set(seen.cases)
    (other,) = specs(plan_study("strategy=teacher", "teacher.with_validation=true"), "train")
    assert len(other.autoencoder_sources[0].cases) == 6 and other.id != train.id
    assert len(specs(plan_study("strategy=teacher", "autoencoder.with_validation=true"), "train")) == 1


def test_unlabelled_scans_are_a_pack_of_their_own_so_that_baselines_share_the_labelled_one(plan_study: Planner) -> None:
    plan = plan_study("strategy=[baseline, multitask]", "data.unlabelled_ts=true")
    assert [pack.dataset for pack in specs(plan, "pack")] == ["Tiny", "Tiny-imagesTs"]
    baseline = next(spec for spec in specs(plan, "train") if spec.config.strategy == "baseline")
    assert plan.stages[baseline.id].needs == (specs(plan, "pack")[0].id,)


def test_other_scans_of_patients_who_are_held_out_are_not_learned_from(plan_study: Planner, dataset: Path) -> None:
    one, other = (path.name.removesuffix(".nii.gz") for path in sorted((dataset / "imagesTs").glob("*.nii.gz")))
    (dataset / "who.json").write_text(json.dumps({"patient_groups": {"p": ["case_002", one]}}))
    settings = ("data.dataset=" + dataset.name, "data.unlabelled_ts=true", "data.groups=who.json", "fold=[0, 1]")
    for strategy, held_out in (("selftrain", False), ("transfer", True)):
        plan = plan_study(f"strategy={strategy}", *settings, data=dataset.parent)
        assert len(specs(plan, "pack")) == 2, "one pack of imagesTs for both folds"
        for train in (spec for spec in specs(plan, "train") if spec.config.strategy == strategy):
            stages = [plan.stages[run_id].spec for run_id in plan.stages[train.id].needs]
            sources = [spec.source for spec in stages if isinstance(spec, LabelSpec)]
            sources += [ref for spec in stages if isinstance(spec, PretrainSpec) for ref in spec.sources]
            seen = {name for source in sources for name in source.cases}
            assert other in seen and (one in seen) == (held_out or "case_002" not in train.validation.cases)


def test_the_test_set_is_not_shown_among_the_unlabelled(plan_study: Planner, dataset: Path) -> None:
    shown, tested = sorted((dataset / "imagesTs").iterdir())
    (dataset / "labelsTs" / shown.name).unlink()
    settings = ("strategy=teacher", f"data.dataset={dataset.name}", "data.unlabelled_ts=true")
    for test, names in (("", {shown.name, tested.name}), (dataset.name, {shown.name})):
        (train,) = specs(plan_study(*settings, f"data.test={test}", data=dataset.parent), "train")
        assert {f"{name}.nii.gz" for name in train.autoencoder_sources[1].cases} == names
    (dataset / "labelsTs" / shown.name).write_bytes((dataset / "labelsTs" / tested.name).read_bytes())
    with pytest.raises(BadInput, match="no unlabelled scans in imagesTs"):
        plan_study(*settings, f"data.test={dataset.name}", data=dataset.parent)


def test_a_copy_of_a_measured_scan_is_not_shown_among_the_unlabelled(plan_study: Planner, dataset: Path) -> None:
    one, other = sorted((dataset / "imagesTs").iterdir())
    shutil.copy(dataset / "imagesTr" / "case_002.nii.gz", one)
    settings = ("strategy=teacher", f"data.dataset={dataset.name}", "data.unlabelled_ts=true", "fold=[0, 1]")
    found = []
    for train in specs(plan_study(*settings, data=dataset.parent), "train"):
        shown = {f"{name}.nii.gz" for ref in train.autoencoder_sources[1:] for name in ref.cases}
        found.append(("case_002" in train.validation.cases, shown))
    assert sorted(found, key=lambda one: one[0]) == [(False, {one.name, other.name}), (True, {other.name})]


def test_another_scan_of_a_test_patient_is_not_shown_among_the_unlabelled(plan_study: Planner, dataset: Path) -> None:
    shown, tested = (path.name.removesuffix(".nii.gz") for path in sorted((dataset / "imagesTs").iterdir()))
    (dataset / "labelsTs" / f"{shown}.nii.gz").unlink()
    settings = ("strategy=teacher", f"data.dataset={dataset.name}", "data.unlabelled_ts=true", "data.groups=who.json")
    for patient, others in (([shown, tested], []), ([tested], [shown])):
        (dataset / "who.json").write_text(json.dumps({"patient_groups": {"p": patient}}))
        (train,) = specs(plan_study(*settings, f"data.test={dataset.name}", data=dataset.parent), "train")
        assert [name for ref in train.autoencoder_sources[1:] for name in ref.cases] == others
        (train,) = specs(plan_study(*settings, data=dataset.parent), "train")
        assert {*train.autoencoder_sources[1].cases} == {shown, tested}, "without a test set nobody is measured there"


@pytest.mark.parametrize(("name", "key"), [("Tiny", "data.dataset"), ("More", "data.test")])
def test_what_is_measured_is_no_supplementary_dataset(
    plan_study: Planner, write_dataset: Callable[..., Path], tiny_dataset: Path, tmp_path: Path, name: str, key: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Tiny").symlink_to(tiny_dataset)
    write_dataset(tmp_path / "data" / "More", training=2, test=1)
    settings = ("strategy=multitask", "autoencoder.with_supplementary=true", f"data.supplementary=[{name}]")
    with pytest.raises(BadInput, match=f"'{name}' is {key}, whose scans are measured; leave it out"):
        plan_study(*settings, "data.test=More", data=tmp_path / "data")


def test_a_test_set_that_holds_a_scan_that_is_learned_from_is_refused(
    plan_study: Planner, write_dataset: Callable[..., Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Tiny").symlink_to(tiny_dataset)
    other = write_dataset(tmp_path / "data" / "Other", training=2, test=0, seed=1)
    shutil.copy(tiny_dataset / "imagesTr" / "case_004.nii.gz", other / "imagesTr" / "case_002.nii.gz")
    with pytest.raises(BadInput, match="'Other': case_002 is the same scan as case_004 of Tiny, which is learned from"):
        plan_study("data.test=Other", data=tmp_path / "data")


def test_so_is_one_that_lies_in_the_dataset_twice(
    plan_study: Planner, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    tiny = write_dataset(tmp_path / "data" / "Mine", training=6, test=0, seed=2)
    other = write_dataset(tmp_path / "data" / "Other", training=2, test=0, seed=1)
    for copy in (tiny / "imagesTr" / "case_006.nii.gz", other / "imagesTr" / "case_002.nii.gz"):
        shutil.copy(tiny / "imagesTr" / "case_001.nii.gz", copy)
    (tmp_path / "splits.csv").write_text(
        "case,fold,role,rank\ncase_001,0,labelled,1\ncase_002,0,labelled,2\ncase_003,0,validation,\n"
    )
    with pytest.raises(BadInput, match="case_002 is the same scan as case_001 of Mine, which is learned from"):
        plan_study(
            "data.dataset=Mine", "data.test=Other", f"data.splits={tmp_path / 'splits.csv'}", data=tmp_path / "data"
        )


@pytest.mark.parametrize(("role", "labelled"), [("test", "case_001"), ("validation", "case_002")])
def test_what_is_measured_is_no_copy_of_what_is_learned_from(
    plan_study: Planner, write_dataset: Callable[..., Path], tmp_path: Path, role: str, labelled: str
) -> None:
    images = write_dataset(tmp_path / "data" / "Mine", training=6, test=0, seed=2) / "imagesTr"
    shutil.copy(images / f"{labelled}.nii.gz", images / "case_006.nii.gz")
    (tmp_path / "splits.csv").write_text(
        "case,fold,role,rank\ncase_001,0,labelled,1\ncase_002,0,labelled,2\n"
        f"case_003,0,validation,\ncase_006,{'' if role == 'test' else 0},{role},\n"
    )
    settings = ("data.dataset=Mine", f"data.splits={tmp_path / 'splits.csv'}")
    with pytest.raises(BadInput, match=f"Mine: case_006 is the same scan as {labelled} of Mine, which is learned from"):
        plan_study(*settings, data=tmp_path / "data")


def test_a_dataset_that_is_learned_from_and_shown_without_labels_is_packed_for_both(
    plan_study: Planner, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("A", "B"):
        write_dataset(tmp_path / "data" / name, training=6, test=2, seed=ord(name))
    sweep = """\
[run]
preprocessing.spacing = 4.0
training.epochs = 1

[[grid]]
name = "a"
strategy = "multitask"
data.dataset = "A"
data.supplementary = ["B"]
autoencoder.with_supplementary = true

[[grid]]
name = "b"
strategy = "baseline"
data.dataset = "B"
"""
    plan = plan_study(data=tmp_path / "data", text=sweep)
    packs = [spec for spec in specs(plan, "pack") if spec.dataset == "B"]
    assert sorted((len(pack.cases), any(case.label for case in pack.cases)) for pack in packs) == [
        (6, True),
        (8, False),
    ]


@pytest.mark.parametrize("name", ["./Tiny", "Tiny/", "Link"])
def test_a_dataset_is_its_own_test_set_by_whichever_name(
    plan_study: Planner, tiny_dataset: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "data").mkdir()
    for link in ("Tiny", "Link"):
        (tmp_path / "data" / link).symlink_to(tiny_dataset)
    (train,) = specs(plan_study(f"data.test={name}", data=tmp_path / "data"), "train")
    assert [case.name for case in train.test_scans] == ["case_007", "case_008"], "no scan that is learned from"


def test_a_test_case_of_a_patient_who_is_learned_from_is_refused(plan_study: Planner, dataset: Path) -> None:
    one = min((dataset / "labelsTs").iterdir()).name.removesuffix(".nii.gz")
    (dataset / "who.json").write_text(json.dumps({"patient_groups": {"p": ["case_002", one]}}))
    settings = (f"data.dataset={dataset.name}", f"data.test={dataset.name}")
    assert len(specs(plan_study(*settings, data=dataset.parent), "train")[0].test_scans) == 2
    with pytest.raises(BadInput, match=f"{one} is of the same patient as case_002, which is learned from"):
        plan_study(*settings, "data.groups=who.json", data=dataset.parent)


def test_supplementary_datasets_are_seen_whole_and_only_by_autoencoders(
    plan_study: Planner, write_dataset: Callable[..., Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "Tiny").symlink_to(tiny_dataset)
    write_dataset(data / "More", training=2, test=1)
    settings = ("strategy=[baseline, multitask]", "data.supplementary=[More]", "autoencoder.with_supplementary=true")
    plan = plan_study(*settings, data=data)
    baseline, multitask = specs(plan, "train")
    assert baseline.autoencoder_sources == ()
    assert [len(source.cases) for source in multitask.autoencoder_sources] == [6, 3]


def test_equal_runs_merge_and_keep_all_their_cells(plan_study: Planner) -> None:
    text = """
[run]
data.dataset = "Tiny"
data.foreground = [1, 2]
data.folds = 2
preprocessing.spacing = 4.0
[[grid]]
name = "a"
strategy = ["baseline", "transfer"]
[[grid]]
name = "b"
strategy = ["baseline", "transfer"]
transfer.phi = 2.0
"""
    plan = plan_study(text=text)
    assert sorted(len(cells) for cells in plan.cells.values()) == [1, 1, 2]
    shared = next(cells for cells in plan.cells.values() if len(cells) == 2)
    assert [cell["grid"] for cell in shared] == ["a", "b"]


def test_the_median_spacing_comes_from_the_labelled_cases_headers(plan_study: Planner) -> None:
    (pack,) = specs(plan_study("preprocessing.spacing=median"), "pack")
    assert pack.spacing_zyx == (2.0, 2.0, 2.0)
    assert pack.id.startswith("Tiny-2.0mm-")


def test_stores_whose_spacing_matches_are_shared_by_all_sweeps(plan_study: Planner) -> None:
    def packs(*settings: str) -> set[str]:
        return {pack.id for pack in specs(plan_study(*settings), "pack")}

    every = packs("preprocessing.spacing=median", "labelled=[1, 2]", "fold=[0, 1]")
    assert len(every) == 1
    for settings in (
        ("preprocessing.spacing=2.0",),
        ("preprocessing.spacing=2.0", "preprocessing.intensity=window"),
        ("preprocessing.spacing=2.0", "preprocessing.percentiles=[[5, 95]]", "strategy=transfer"),
        ("preprocessing.spacing=2.0", "preprocessing.codec=bitshuffle-lz4"),
    ):
        assert packs(*settings) == every, settings
    assert packs("preprocessing.spacing=2.5") != every


def test_the_test_set_may_be_the_datasets_own_or_another(
    plan_study: Planner, write_dataset: Callable[..., Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    (train,) = specs(plan_study("data.test=Tiny"), "train")
    assert len(train.test_scans) == 2
    data = tmp_path / "data"
    data.mkdir()
    (data / "Tiny").symlink_to(tiny_dataset)
    write_dataset(data / "Other", training=3, test=1, seed=1)
    (train,) = specs(plan_study("data.test=Other", data=data), "train")
    assert len(train.test_scans) == 4


def test_a_test_set_with_other_label_numbers_is_refused_until_they_are_given(
    plan_study: Planner, write_dataset: Callable[..., Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "Tiny").symlink_to(tiny_dataset)
    other = write_dataset(data / "Other", training=1, test=1, seed=1) / "dataset.json"
    labels = {"0": "background", "1": "spleen", "2": "core", "6": "Ball"}
    other.write_text(json.dumps(json.loads(other.read_text()) | {"labels": labels}))
    with pytest.raises(BadInput, match=r"1 is 'ball' in Tiny, but 'spleen' in Other.*6; set data.test_foreground"):
        plan_study("data.test=Other", data=data)
    labels = {"0": "background", "1": "ball", "3": "core"}
    other.write_text(json.dumps(json.loads(other.read_text()) | {"labels": labels}))
    with pytest.raises(
        BadInput, match=r"2 is 'core' in Tiny, but no label in Other, whose 'core' is 3; set data.test_f"
    ):
        plan_study("data.test=Other", data=data)
    labels = {"0": "background", "1": "sphere", "2": "core", "6": "Ball"}
    other.write_text(json.dumps(json.loads(other.read_text()) | {"labels": labels | {"6": "bone"}}))
    notes = plan_study("data.test=Other", data=data).notes
    assert [note for note in notes if "label 1 of Tiny and Other is 'ball' and 'sphere': taken for the same" in note]
    notes = plan_study("data.test=Other", "data.foreground=[]", data=data).notes
    assert [note for note in notes if "labels 6 of Other alone count as foreground" in note]
    (train,) = specs(plan_study("data.test=Other", "data.test_foreground=[2, 6]", data=data), "train")
    assert train.classes_in("validation") == ((1, 2),)
    assert train.classes_in("test") == ((2, 6),)


@pytest.mark.parametrize(
    ("foreground", "classes"), [("[]", ()), ("[1]", ((1,),)), ("[1, 2]", ((1, 2),)), ("[[[1], [2]]]", ((1,), (2,)))]
)
def test_foreground_values_are_one_class_or_several(
    plan_study: Planner, foreground: str, classes: tuple[tuple[int, ...], ...]
) -> None:
    (pack,) = specs(plan_study(f"data.foreground={foreground}"), "pack")
    assert pack.classes == classes


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.dataset=", "data.dataset is not set"),
        ("data.dataset=None", "no dataset 'None'"),
        ("data.foreground=[1, 7]", "data.foreground: 7 is no foreground label of Tiny"),
        ("labelled=50", "labelled = 50"),
        ("data.test=None", "no dataset 'None'"),
    ],
)
def test_what_the_data_cannot_give_is_one_line(plan_study: Planner, setting: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        plan_study(setting)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("autoencoder.with_supplementary=true", "data.supplementary lists no dataset"),
        ("data.supplementary=[None]", "no dataset 'None'"),
    ],
)
def test_autoencoder_sources_that_are_not_there_are_errors_of_the_strategies_that_read_them(
    plan_study: Planner, setting: str, message: str
) -> None:
    settings = ["autoencoder.with_supplementary=true", setting]
    assert plan_study(*settings).stages
    with pytest.raises(BadInput, match=message):
        plan_study("strategy=multitask", *settings)


def test_the_plan_as_json_counts_and_names_everything(plan_study: Planner) -> None:
    plan = plan_study("strategy=[baseline, transfer]").as_json()
    assert plan["sweep"] == "study"
    listed = {stage: len(runs) for stage, runs in plan["runs"].items()}
    assert listed == {"pack": 1, "pretrain": 2, "label": 0, "train": 2}
    assert plan["counts"] == {"pack": {"new": 1}, "pretrain": {"new": 2}, "label": {}, "train": {"new": 2}}
    assert plan["to_submit"] == 5


def names_of(plan: Plan) -> list[str]:
    return [case.name for case in specs(plan, "pack")[0].cases]


@pytest.mark.parametrize("place", ["dataset", "beside the sweep", "elsewhere"])
def test_given_splits_are_looked_for_in_the_dataset_and_beside_the_sweep(
    place: str, plan_study: Planner, tiny_dataset: Path, tmp_path: Path
) -> None:
    a, b, c, d, *_ = names_of(plan_study())
    folder = {"dataset": tmp_path / "data" / "Tiny", "beside the sweep": tmp_path}.get(place, tmp_path / "other")
    folder.mkdir(parents=True, exist_ok=True)
    data = tmp_path / "data" if place == "dataset" else tiny_dataset.parent
    if place == "dataset":
        shutil.copytree(tiny_dataset, folder, dirs_exist_ok=True)
    (folder / "mine.csv").write_text(
        f"case,fold,role,rank\n{a},,test,\n{b},0,labelled,2\n{c},,labelled,1\n{d},0,validation,\n"
    )
    setting = f"data.splits={folder if place == 'elsewhere' else '.'}/mine.csv"
    plan = plan_study("strategy=[baseline, transfer]", "labelled=[1, 2]", setting, data=data)
    one, two = (spec for spec in specs(plan, "train") if spec.config.strategy == "baseline")
    assert (one.labelled.cases, two.labelled.cases) == ((c,), (c, b))
    assert two.validation.cases == (d,)
    assert [scan.name for scan in two.test_scans] == [a] and two.test_classes == ((1, 2),)
    seen = {case for spec in specs(plan, "pretrain") for case in spec.sources[0].cases}
    assert seen == {b, c, d}  # not the test case


def test_what_given_splits_resolve_to_is_part_of_a_run(plan_study: Planner, tmp_path: Path) -> None:
    names = names_of(plan_study())

    def plan(test: int, order: str = "bcd", name: str = "mine.json") -> str:
        cases = dict(zip("abcdef", names[test:] + names[:test], strict=True))
        rows = [{"case": cases["a"], "role": "test"}, {"case": cases["f"], "role": "validation"}]
        rows += [{"case": cases[letter], "role": "labelled"} for letter in order]
        (tmp_path / name).write_text(json.dumps(rows))
        (run,) = plan_study(f"data.splits={name}").of_stage("train")
        return run

    first = plan(0)
    assert plan(0) == plan(0, name="another.json") == first  # the file's name is not
    assert len({first, plan(1), plan(0, "dcb"), *plan_study().of_stage("train")}) == 4


def test_another_test_set_takes_the_place_of_the_cases_set_aside(plan_study: Planner, tmp_path: Path) -> None:
    first = names_of(plan_study())[0]
    (tmp_path / "aside.csv").write_text(f"case,role\n{first},test\n")
    aside, other = plan_study("data.splits=aside.csv"), plan_study("data.splits=aside.csv", "data.test=Tiny")
    (one,), (two,) = (specs(plan, "train") for plan in (aside, other))
    assert [scan.name for scan in one.test_scans] == [first]
    assert {scan.label.parent.name for scan in two.test_scans} == {"labelsTs"}
    assert (one.labelled, one.validation) == (two.labelled, two.validation)
    assert first not in {*one.labelled.cases, *one.validation.cases}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.splits=none.csv", r"data\.splits = 'none\.csv': no such file in .*Tiny or in "),
        ("data.splits=aside.csv", r"aside\.csv: the test set: 'x' is no labelled case of the dataset"),
    ],
)
def test_splits_that_do_not_fit_are_one_line(plan_study: Planner, tmp_path: Path, setting: str, message: str) -> None:
    (tmp_path / "aside.csv").write_text("case,role\nx,test\n")
    with pytest.raises(BadInput, match=message) as raised:
        plan_study(setting)
    assert "\n" not in str(raised.value)


def test_given_splits_may_have_more_folds_than_are_drawn(plan_study: Planner, tmp_path: Path) -> None:
    a, b, *rest = names_of(plan_study())
    folds = [{"train": [a, *rest], "val": [b]}, {"train": [b, *rest], "val": [a]}, {"train": [a, b], "val": rest}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    (train,) = specs(plan_study("data.splits=splits_final.json", "fold=2", "data.folds=2"), "train")
    assert set(train.validation.cases) == set(rest)
    with pytest.raises(BadInput, match=r"fold = 3 does not exist: .*splits_final\.json has folds 0 to 2"):
        plan_study("data.splits=splits_final.json", "fold=3", "data.folds=2")


def test_the_reserved_label_is_ignored_and_part_of_the_identity(
    plan_study: Planner, dataset: Path, tmp_path: Path
) -> None:
    plain, path = plan_study(data=tmp_path), dataset / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"labels": {"0": "background", "1": "liver", "2": "Ignore"}}))
    plan = plan_study("data.foreground=[1]", "data.test=Tiny", data=tmp_path)
    (pack,), (train,) = specs(plan, "pack"), specs(plan, "train")
    assert isinstance(pack, PackSpec) and isinstance(train, TrainSpec)
    assert (pack.ignore, train.ignore, train.ignored_in("test")) == (2, 2, 2)
    path.write_text(json.dumps(content | {"labels": {"0": "background", "1": "liver", "2": "tumour"}}))
    other = plan_study("data.foreground=[1]", "data.test=Tiny", data=tmp_path)
    assert not {*other.stages} & {*plan.stages} and specs(plain, "pack")[0].ignore is None
    path.write_text(json.dumps(content | {"labels": {"0": "background", "1": "liver", "2": "ignore"}}))
    for key in ("data.foreground", "data.test_foreground"):
        with pytest.raises(BadInput, match=rf"{key}: \D*2\D* has the label 'ignore' of Tiny"):
            plan_study("data.foreground=[1]", "data.test=Tiny", f"{key}=[2]", data=tmp_path)


def test_grids_that_a_setting_makes_the_same_runs_are_noted(plan_study: Planner) -> None:
    text = (Path(__file__).parents[1] / "study.toml").read_text()
    two = text + text[text.index("[[grid]]") :].replace('"main"', '"other"').replace('["baseline"]', '["teacher"]')
    assert not [note for note in plan_study(text=two).notes if "same runs" in note]
    (note,) = [note for note in plan_study("strategy=baseline", text=two).notes if "same runs" in note]
    assert note.startswith("the grids main and other are the same runs (by --set?)")


def test_tables_of_a_test_set_that_nobody_has_are_named(plan_study: Planner, dataset: Path) -> None:
    text = f'[run]\ndata.dataset = "{dataset.name}"\n[[grid]]\n[[table]]\nname = "dsc"\nsets = ["test"]\n'
    text += '[[figure]]\nname = "losses"\nkind = "learning"\n'  # of no set, whatever `set` says

    def notes(*settings: str) -> list[str]:
        return [note for note in plan_study(*settings, text=text, data=dataset.parent).notes if "test set" in note]

    assert notes(f"data.test={dataset.name}") == []
    assert notes() == [
        "no run has a test set, so [[table]] dsc will be empty; set data.test or data.splits, or show another set"
    ]
