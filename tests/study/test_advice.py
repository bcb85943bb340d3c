"""What `--plan` says of settings that do not suit the scans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.study.plan import Plan

MR = """
[run]
data.dataset = "Tiny"
data.folds = 2
labelled = 2
"""


def as_mr(dataset: Path) -> Path:
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modality": {"0": "MRI"}}))
    return dataset.parent


def test_the_papers_defaults_on_small_mr_volumes(plan_study: Callable[..., Plan], dataset: Path) -> None:
    limits, size = plan_study(text=MR, data=as_mr(dataset)).notes
    assert limits == (
        "preprocessing.intensity = 'percentile' clips at the same limits for all scans, but Tiny is MRI, no CT, whose "
        'intensities have no common scale; "zscore" suits it'
    )
    assert size == (
        "patches.size = 72 with network.levels = 4: the coarsest level sees 224 voxels, but scans of Tiny have 28 "
        "along their longest side; most of it would be padding, and fewer levels or a smaller patch suit them"
    )
    (window,) = plan_study(
        "preprocessing.intensity=window", "patches.size=12", "network.levels=2", text=MR, data=dataset.parent
    ).notes
    assert "'window' clips at a window in HU, but Tiny is MRI" in window


def test_a_supplementary_dataset_that_is_prepared_otherwise_is_named(
    plan_study: Callable[..., Plan], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("Tiny", "More"):
        write_dataset(tmp_path / "data" / name)
    as_mr(tmp_path / "data" / "More")
    settings = ("strategy=multitask", "autoencoder.with_supplementary=true", "data.supplementary=[More]")
    small = ("patches.size=12", "network.levels=2", "preprocessing.spacing=4.0")
    found = plan_study(*settings, *small, data=tmp_path / "data").notes
    assert [note for note in found if "supplementary" in note] == [
        "data.supplementary: More is 'MRI', Tiny is 'CT': preprocessing.padding and preprocessing.pyramid_clip = "
        "'auto' differ between them; set what suits both, or correct dataset.json"
    ]
    both = ("preprocessing.padding=-1000", "preprocessing.pyramid_clip=none")
    assert not any(
        "supplementary" in note for note in plan_study(*settings, *small, *both, data=tmp_path / "data").notes
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["preprocessing.spacing=4.0"], True),
        (["preprocessing.spacing=0.6"], False),  # 93 voxels
        (["patches.size=16", "network.levels=3", "network.kernel=3"], False),
        (["network.kind=unet", "patches.size=40"], False),
        (["network.kind=unet", "patches.size=48"], True),
    ],
)
def test_patches_count_in_the_voxels_that_are_stored(
    plan_study: Callable[..., Plan], settings: list[str], said: bool
) -> None:
    notes = plan_study(*settings, text=MR).notes
    assert [note.startswith("patches.size") for note in notes] == [True] * said


def test_a_scan_without_a_header_says_nothing_here(plan_study: Callable[..., Plan], dataset: Path) -> None:
    for image in (dataset / "imagesTr").iterdir():
        image.write_bytes(f"no scan {image.name}".encode())
    assert plan_study(text=MR + "preprocessing.spacing = 2.0", data=dataset.parent).notes == ()


def test_far_finer_voxels_than_those_of_the_scans(plan_study: Callable[..., Plan]) -> None:
    _, voxels = plan_study("preprocessing.spacing=0.02", "data.foreground=[1]", text=MR).notes
    assert voxels == (
        "preprocessing.spacing = 0.02: a scan of Tiny has 2,400 × 2,800 × 2,600 voxels then, 1,000,000 times its own "
        "and 32.5 GiB as it is stored; a larger spacing suits it"
    )


def test_labels_of_no_class(plan_study: Callable[..., Plan]) -> None:
    small = ["patches.size=16", "network.levels=3", "network.kernel=3"]
    (left,) = plan_study("data.foreground=[1]", *small, text=MR).notes
    assert left == "data.foreground = [1]: 1 label of Tiny in no class, so background: 2 (core)"
    assert plan_study("data.foreground=[2, 1]", *small, text=MR).notes == ()
