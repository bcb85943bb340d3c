"""Facts of a dataset from what `inspect` finds: medians, and which cases are one patient's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection.dataset_findings import inspect_dataset
from hpcseg.study.measured import read_facts
from hpcseg.volumes.datasets import open_dataset

PAIRS = [{"kind": "one patient", "cases": [f"case_{n:03d}", f"case_{n + 1:03d}"], "score": 0.95} for n in (1, 3, 5)]


def report_of(root: Path, *alike: dict[str, Any]) -> dict[str, Any]:
    return inspect_dataset(root) | {"duplicates": list(alike)}


def test_facts_are_those_of_the_scans(tiny_dataset: Path) -> None:
    facts = read_facts(open_dataset(tiny_dataset), report_of(tiny_dataset), 8.0)
    assert (facts.name, facts.is_ct, facts.labels) == ("Tiny", True, {1: "ball", 2: "core"})
    assert (facts.spacing_zyx, facts.shape_zyx) == ((2.0, 2.0, 2.0), (24.0, 28.0, 26.0))
    assert (facts.unlabelled, facts.test, facts.gpu_gib, len(facts.groups)) == (0, 2, 8.0, 6)
    # A ball of 7 voxels' radius has 1,437, its core of 3 has 113, each voxel of 8 mm³.
    assert facts.label_ml == {1: pytest.approx(8 * (1437 - 113) / 1000, rel=0.03), 2: pytest.approx(0.9, rel=0.15)}
    assert facts.foreground_share == pytest.approx(1437 / (24 * 28 * 26), rel=0.03)
    assert 70 < facts.foreground_ends[0] < 110 and 190 < facts.foreground_ends[1] < 250


def test_one_patients_scans_are_pairs_a_file_or_a_note(dataset: Path) -> None:
    opened = open_dataset(dataset)
    assert read_facts(opened, report_of(dataset, *PAIRS), None).groups_key == "pairs"
    shifted = [PAIRS[0] | {"cases": ["case_002", "case_003"]}]
    facts = read_facts(opened, report_of(dataset, *shifted), None)
    assert facts.groups_key == "" and "case_002 + case_003" in facts.notes[0]
    (dataset / "who.json").write_text(json.dumps({"patient_groups": {"p": ["case_002", "case_003"]}}))
    facts = read_facts(opened, report_of(dataset, *shifted), None)
    assert (facts.groups_key, facts.notes, len({*facts.groups.values()})) == ("who.json", (), 5)


def test_a_patient_of_training_among_the_others_is_named(dataset: Path) -> None:
    opened = open_dataset(dataset)
    other = opened.test[0].name
    facts = read_facts(opened, report_of(dataset, PAIRS[0] | {"cases": ["case_001", other]}), None)
    assert f"case_001 + {other}" in facts.notes[0] and "list them in patient_groups" in facts.notes[0]
    assert read_facts(opened, report_of(dataset, PAIRS[0]), None).notes != facts.notes
    (dataset / "who.json").write_text(json.dumps({"patient_groups": {"p": ["case_001", other]}}))
    facts = read_facts(opened, report_of(dataset, PAIRS[0] | {"cases": ["case_001", other]}), None)
    assert (facts.groups_key, facts.notes) == ("who.json", ())


def test_labels_that_never_occur_are_no_class_and_one_case_is_too_few(dataset: Path) -> None:
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"]["9"] = "never"
    path.write_text(json.dumps(content))
    report = report_of(dataset)
    assert read_facts(open_dataset(dataset), report, None).labels == {1: "ball", 2: "core"}
    shutil.rmtree(dataset / "imagesTs")
    few = report | {"training": report["training"][:1]}
    with pytest.raises(BadInput, match="1 of 6 labelled cases can be read and have foreground; two are needed"):
        read_facts(open_dataset(dataset, files_must_exist=False), few, None)


def test_names_tell_patients_before_content_does(dataset: Path) -> None:
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    for n, case in enumerate(content["training"]):
        case["name"] = f"patient{n // 2}_frame{n % 2}"
    path.write_text(json.dumps(content))
    facts = read_facts(open_dataset(dataset), report_of(dataset), None)
    assert (facts.groups_key, {*facts.groups.values()}) == ("names", {"patient0", "patient1", "patient2"})
