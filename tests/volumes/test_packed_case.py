"""One case, from its scan to what a store holds of it."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.spec import IGNORED, CaseRef, PackSpec, Spacing
from hpcseg.volumes.packed_case import SAMPLE, pack_case
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.pyramid import build_pyramid, choose_coding
from tests.benchmarks.timing import PeakMemory, in_fresh_process

CLIP = (-200.0, 400.0)


@pytest.fixture
def scan(tmp_path: Path, write_scan) -> CaseRef:
    """Noise of −1000 to 1500 HU, 1 mm, half of it foreground of two classes: more voxels than are sampled."""
    rng = np.random.default_rng(3)
    image = rng.integers(-1000, 1500, (40, 44, 48)).astype(np.int16)
    label = rng.choice(np.array([0, 0, 1, 2], np.uint8), image.shape)
    label[:, :, :7] = 0
    return CaseRef(
        name="noise",
        image=write_scan(tmp_path / "image.nii.gz", image),
        label=write_scan(tmp_path / "label.nii.gz", label),
    )


def spec_of(case: CaseRef, **changes: object) -> PackSpec:
    fields = {"spacing_zyx": (1.0, 1.0, 1.0), "classes": ((1,), (2,)), "padding": -1000.0, "pyramid_clip": CLIP}
    return PackSpec.model_validate({"id": "x", "dataset": "d", "cases": (case,)} | fields | changes)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 0.8, 0.9)])
def test_codes_and_histograms_are_those_of_the_preprocessed_scan(scan: CaseRef, spacing: Spacing) -> None:
    packed = pack_case(spec_of(scan, spacing_zyx=spacing), scan)
    done = preprocess(scan.image, scan.label, spacing_zyx=spacing, classes=((1,), (2,)), padding=-1000.0)
    coding = choose_coding(done.volume_zyx, -1000.0, CLIP)
    assert (packed.attributes["slope"], packed.attributes["intercept"]) == (coding.slope, coding.intercept)
    for level, volume in enumerate(build_pyramid(done.volume_zyx, -1000.0, CLIP, 4)):
        assert np.array_equal(packed.arrays[f"image_{level}"], coding.encode(volume))
    assert done.label_zyx is not None
    assert np.array_equal(packed.arrays["label"], done.label_zyx)
    codes = packed.arrays["image_0"]
    for name, chosen in (("histogram", codes), ("foreground", codes[done.label_zyx > 0])):
        values, counts = np.unique(chosen, return_counts=True)
        assert np.array_equal(packed.arrays[f"{name}_codes"], values)
        assert np.array_equal(packed.arrays[f"{name}_counts"], counts)


@pytest.mark.parametrize("rare", [False, True])
def test_the_foreground_sample_is_a_fixed_draw_from_all_voxels_of_a_class(
    tmp_path: Path, scan: CaseRef, write_scan, rare: bool
) -> None:
    if rare:
        label = np.zeros((40, 44, 48), np.uint8)
        label[3:5, 7, 9], label[20, 30:33, 40] = 1, 2
        scan = scan.model_copy(update={"label": write_scan(tmp_path / "rare.nii.gz", label)})
    arrays = pack_case(spec_of(scan), scan).arrays
    for index in (1, 2):
        voxels = np.flatnonzero(arrays["label"] == index)
        assert (len(voxels) < SAMPLE) == rare
        if not rare:
            generator = np.random.default_rng([zlib.crc32(b"noise"), index])
            voxels = np.sort(generator.choice(voxels, SAMPLE, replace=False, shuffle=False))
        expected = np.stack(np.unravel_index(voxels, arrays["label"].shape), axis=1)
        assert arrays[f"foreground_{index}"].dtype == np.int32
        assert np.array_equal(arrays[f"foreground_{index}"], expected)


def test_a_class_without_voxels_has_an_empty_sample(scan: CaseRef) -> None:
    arrays = pack_case(spec_of(scan, classes=((1,), (7,))), scan).arrays
    assert arrays["foreground_2"].shape == (0, 3)


def test_a_case_without_label_has_an_empty_foreground(scan: CaseRef) -> None:
    case = scan.model_copy(update={"label": None})
    packed = pack_case(spec_of(case), case)
    assert not packed.attributes["labelled"]
    assert "label" not in packed.arrays
    assert packed.arrays["foreground_codes"].size == packed.arrays["foreground_counts"].size == 0


def peak_of_packing(spec: PackSpec) -> tuple[int, int]:
    """Bytes above what was there before, and those of the resampled volume as float32."""
    np.ones((64, 64), np.float32) @ np.ones((64, 64), np.float32)  # BLAS has its buffers
    with PeakMemory() as peak:
        packed = pack_case(spec, spec.cases[0])
    return peak.bytes, packed.arrays["image_0"].size * 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak of memory")
@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)])
def test_packing_needs_at_most_three_float32_volumes(
    tmp_path: Path, write_scan, spacing: tuple[float, ...], storm
) -> None:
    affine = np.diag([-0.7, -0.7, 2.0, 1.0])
    for kind in (np.float32, np.int16)[: storm(1, 2)]:  # the larger one first
        image = np.random.default_rng(0).normal(0, 300, (320, 320, 120)).astype(kind)
        label = np.zeros(image.shape, np.uint8)
        label[50:250, 50:250, 20:100] = 1
        case = CaseRef(
            name="large",
            image=write_scan(tmp_path / "image.nii", image, affine),
            label=write_scan(tmp_path / "label.nii", label, affine),
        )
        spec = spec_of(case, spacing_zyx=spacing, classes=(), padding="minimum")
        peak, resampled = in_fresh_process(peak_of_packing, spec)
        assert peak < 3 * max(resampled, image.size * 4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.3, 0.8, 0.9)])
def test_ignored_voxels_are_of_no_class_in_labels_samples_and_histograms(scan: CaseRef, spacing: Spacing) -> None:
    plain = pack_case(spec_of(scan, spacing_zyx=spacing, classes=((1,),)), scan)
    packed = pack_case(spec_of(scan, spacing_zyx=spacing, classes=((1,),), ignore=2), scan)
    label = packed.arrays["label"]
    assert set(np.unique(label)) == {0, 1, IGNORED} and "ignored" not in plain.attributes
    assert packed.attributes["ignored"] == np.count_nonzero(label == IGNORED)
    assert packed.arrays["foreground_counts"].sum() == np.count_nonzero(label == 1)
    for key, wanted in (("foreground_1", label == 1), ("known", label != IGNORED)):
        voxels = packed.arrays[key]
        assert voxels.shape == (SAMPLE, 3) and voxels.dtype == np.int32 and wanted[tuple(voxels.T)].all()
    everything = pack_case(spec_of(scan, classes=(), ignore=2), scan).arrays["label"]
    if spacing == (1.0, 1.0, 1.0):  # nothing is resampled
        assert np.array_equal(everything == 1, plain.arrays["label"] == 1)
    assert IGNORED in everything


def test_a_label_of_ignored_voxels_alone_has_no_foreground(scan: CaseRef, tmp_path: Path, write_scan) -> None:
    only = write_scan(tmp_path / "only.nii.gz", np.full((40, 44, 48), 2, np.uint8))
    case = scan.model_copy(update={"label": only})
    with pytest.raises(BadInput, match=r"only\.nii\.gz: empty foreground"):
        pack_case(spec_of(case, classes=(), ignore=2), case)
