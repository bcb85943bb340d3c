"""NIfTI in and out: orientations, headers, and every way in which a scan can be bad."""

from __future__ import annotations

import gzip
import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hpcseg.errors import BadInput
from hpcseg.volumes.scan_grid import ScanGrid, require_same_grid
from hpcseg.volumes.scans import read_grid, read_image, read_label, read_scan, write_mask, write_shares

SHAPE = (3, 4, 5)
SPACING = (1.0, 2.0, 3.0)
ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def oriented_affine(axes: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (target, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[target, axis] = sign * SPACING[axis]
    affine[:3, 3] = (5, -7, 11)
    return affine


def ramp() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_to_file_inverts_to_canonical_and_canonical_is_nibabels(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    grid = ScanGrid(oriented_affine(axes, signs), SHAPE)
    canonical = grid.to_canonical(ramp())
    assert np.array_equal(grid.to_file(canonical), ramp())
    closest = nib.as_closest_canonical(nib.Nifti1Image(ramp(), grid.affine))
    assert np.array_equal(canonical, closest.get_fdata().transpose(2, 1, 0))
    assert canonical.shape == grid.shape_zyx
    assert grid.spacing_zyx == pytest.approx(closest.header.get_zooms()[::-1])


@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), signs=st.sampled_from([s for _, s in ORIENTATIONS]))
@settings(max_examples=50)
def test_oblique_scans_round_trip_and_agree_with_nibabel(
    angles: tuple[float, float, float], signs: tuple[int, ...]
) -> None:
    a, b, c = np.deg2rad(angles)
    rot_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rot_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rot_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rot_x @ rot_y @ rot_z @ np.diag(np.array(SPACING) * signs)
    grid = ScanGrid(affine, SHAPE)
    canonical = grid.to_canonical(ramp())
    assert np.array_equal(grid.to_file(canonical), ramp())
    closest = nib.as_closest_canonical(nib.Nifti1Image(ramp(), affine))
    assert np.array_equal(canonical, closest.get_fdata().transpose(2, 1, 0))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_an_image_is_read_with_its_scaling(tmp_path: Path, ending: str, kind: type[nib.Nifti1Image]) -> None:
    image = kind(np.arange(60, dtype=np.int16).reshape(SHAPE), np.diag([1, 2, 3, 1.0]))
    image.header.set_slope_inter(2, -1024)
    path = tmp_path / f"scan{ending}"
    nib.save(image, path)
    volume, grid = read_image(path)
    assert volume.dtype == np.float32
    assert np.array_equal(volume.transpose(2, 1, 0), kind.from_filename(path).get_fdata())
    assert grid.spacing_zyx == (3, 2, 1)
    assert grid.shape_zyx == read_grid(path).shape_zyx == (5, 4, 3)


KINDS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]


def random_voxels(kind: type, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(0)
    if np.issubdtype(kind, np.floating):
        return rng.normal(100, 1e5, shape).astype(kind)
    ends = np.iinfo(kind)
    return rng.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("scaling", [(1, 0), (0.37, -1024), (-2, 0), (1, 0.5)])
def test_every_type_of_voxel_is_read_as_nibabel_reads_it(
    tmp_path: Path, kind: type, endian: str, scaling: tuple[float, float]
) -> None:
    for image_kind, header_kind in ((nib.Nifti1Image, nib.Nifti1Header), (nib.Nifti2Image, nib.Nifti2Header)):
        for ending in (".nii", ".nii.gz"):
            header = header_kind(endianness=endian)
            header.set_data_dtype(kind)
            image = image_kind(random_voxels(kind), np.diag([-1, 2, 3, 1.0]), header)
            image.header.set_slope_inter(*scaling)
            path = tmp_path / f"scan{ending}"
            nib.save(image, path)
            expected = (
                nib.as_closest_canonical(image_kind.from_filename(path)).get_fdata(dtype=np.float32).transpose(2, 1, 0)
            )
            volume, _ = read_image(path)
            assert volume.dtype == np.float32
            assert np.array_equal(volume, expected)
            kept, _ = read_scan(path)
            assert kept.stored_zyx.dtype.isnative
            assert kept.stored_zyx.itemsize <= min(np.dtype(kind).itemsize, 4)
            assert kept.extent == (expected.min(), expected.max())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_scans_of_several_parts_are_read_whole(tmp_path: Path, write_scan, ending: str) -> None:
    values = random_voxels(np.int16, (130, 121, 140))  # more than 2²¹ voxels
    path = write_scan(tmp_path / f"scan{ending}", values)
    assert np.array_equal(read_image(path)[0].transpose(2, 1, 0), values)
    labels = (values & 7).astype(np.float32)
    path = write_scan(tmp_path / f"label{ending}", labels)
    assert np.array_equal(read_label(path, read_grid(path)).transpose(2, 1, 0), labels)
    labels[-1, -1, -1] = 0.5
    with pytest.raises(BadInput, match="not whole numbers"):
        read_label(write_scan(path, labels), read_grid(path))
    labels[-1, -1, -1] = np.nan
    with pytest.raises(BadInput, match=r"label\.nii.*: 1 voxel NaN or infinite"):
        read_image(write_scan(path, labels))


def test_integers_that_become_infinite_by_their_slope_are_counted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.array([0, 1, 30_000], np.int16).reshape(3, 1, 1), np.eye(4))
    image.header.set_slope_inter(1e37, 0)
    nib.save(image, tmp_path / "scan.nii.gz")
    with pytest.raises(BadInput, match="1 voxel NaN or infinite"):
        read_image(tmp_path / "scan.nii.gz")


def test_intensities_too_large_to_compute_with_are_refused(tmp_path: Path, write_scan) -> None:
    with pytest.raises(BadInput, match=r"from -3e\+38 to 0, too large to compute with; rescale"):
        read_image(write_scan(tmp_path / "scan.nii.gz", np.array([-3e38, 0], np.float32).reshape(2, 1, 1)))


def test_a_header_that_promises_more_than_its_file_can_hold_is_refused_at_once(tmp_path: Path, write_scan) -> None:
    path = write_scan(tmp_path / "scan.nii", np.zeros(SHAPE, np.int16))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, np.int16).tobytes()  # dim[1:4]: 64 TiB
    path.write_bytes(content)
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(content))
    for name in ("scan.nii", "scan.nii.gz"):
        with pytest.raises(BadInput, match="the file is too small for 35181150961663 voxels"):
            read_image(tmp_path / name)


def test_trailing_axes_of_one_are_dropped(tmp_path: Path, write_scan) -> None:
    path = write_scan(tmp_path / "scan.nii.gz", ramp()[..., None, None])
    assert read_image(path)[0].shape == (5, 4, 3)
    assert read_label(path, read_grid(path)).shape == (5, 4, 3)


def test_float_labels_with_whole_numbers_are_read(tmp_path: Path, write_scan) -> None:
    values = (ramp() % 3).astype(np.float32)
    path = write_scan(tmp_path / "label.nii.gz", values)
    label = read_label(path, read_grid(path))
    assert label.dtype == np.uint8
    assert np.array_equal(label.transpose(2, 1, 0), values)


def test_a_missing_scan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(BadInput, match=r"folder\.nii\.gz: is a folder, and no scan"):
        read_image(tmp_path / "folder.nii.gz")
    with pytest.raises(BadInput, match=r"no such scan; correct"):
        read_image(tmp_path / "none.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to("none.nii.gz")
    with pytest.raises(BadInput, match=r"link\.nii\.gz: a link to a file that is not there; correct"):
        read_image(tmp_path / "link.nii.gz")


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0004")
    with pytest.raises(BadInput, match="convert it to NIfTI"):
        read_image(tmp_path / "scan.nrrd")


@pytest.mark.parametrize("content", [b"", b"not a scan at all" * 100, b"\x5c\x01\x00\x00" + b"\xff" * 600])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_that_is_no_scan_is_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"scan{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(BadInput, match=r"scan\.nii"):
        read_grid(path)


@pytest.mark.parametrize("keep", [0.1, 0.6, 0.95])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_truncated_scan_is_refused(tmp_path: Path, write_scan, keep: float, ending: str) -> None:
    path = write_scan(tmp_path / f"scan{ending}", np.random.default_rng(0).integers(0, 999, (20, 20, 20), np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BadInput, match="not a readable NIfTI scan"):
        read_image(path)
    with pytest.raises(BadInput, match="not a readable NIfTI scan"):
        read_label(path, ScanGrid(np.eye(4), (20, 20, 20)))


def test_a_gzip_checksum_that_does_not_match_is_noticed(tmp_path: Path, write_scan) -> None:
    path = write_scan(tmp_path / "scan.nii.gz", ramp())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert read_grid(path).shape_zyx == (5, 4, 3)
    with pytest.raises(BadInput, match="CRC"):
        read_image(path)


@given(place=st.integers(0, 347), value=st.integers(0, 255))
@settings(max_examples=150)
def test_a_header_with_a_wrong_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, write_scan, place: int, value: int
) -> None:
    path = write_scan(tmp_path_factory.mktemp("fuzz") / "scan.nii", ramp())
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    try:
        assert np.isfinite(read_image(path)[0]).all()
    except BadInput as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_number_are_counted(tmp_path: Path, write_scan, bad: float) -> None:
    values = ramp()
    values[1, :2, 3] = bad
    with pytest.raises(BadInput, match="2 voxels NaN or infinite"):
        read_image(write_scan(tmp_path / "scan.nii.gz", values))


def test_more_than_three_axes_are_refused(tmp_path: Path, write_scan) -> None:
    with pytest.raises(BadInput, match="not 3-D"):
        read_image(write_scan(tmp_path / "scan.nii.gz", np.zeros((3, 4, 5, 2), np.int16)))
    with pytest.raises(BadInput, match="not 3-D"):
        read_image(write_scan(tmp_path / "flat.nii.gz", np.zeros((3, 4), np.int16)))


def test_colour_is_refused(tmp_path: Path, write_scan) -> None:
    colours = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(BadInput, match="not plain intensities"):
        read_grid(write_scan(tmp_path / "scan.nii.gz", colours))


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan])
def test_a_spacing_that_is_not_positive_is_refused(tmp_path: Path, write_scan, spacing: float) -> None:
    path = write_scan(tmp_path / "scan.nii", ramp())
    content = bytearray(path.read_bytes())
    content[84:88] = np.float32(spacing).tobytes()  # pixdim[2]
    path.write_bytes(content)
    with pytest.raises(BadInput, match="must be positive; correct the header"):
        read_grid(path)


@pytest.mark.parametrize("column", [(0, 0, 0), (1, 0, 0), (np.nan, 0, 0)])
def test_a_singular_affine_is_refused(tmp_path: Path, column: tuple[float, float, float]) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header["srow_y"][:3] = 0
    for row, value in zip(("srow_x", "srow_y", "srow_z"), column, strict=True):
        image.header[row][1] = value
    image.header["sform_code"] = 1
    path = tmp_path / "scan.nii"
    path.write_bytes(nib.Nifti1Image(ramp(), None, image.header).to_bytes())
    with pytest.raises(BadInput, match="affine"):
        read_grid(path)


def test_a_label_on_another_grid_is_refused(tmp_path: Path, write_scan) -> None:
    grid = read_grid(write_scan(tmp_path / "scan.nii.gz", ramp()))
    with pytest.raises(BadInput, match="label shape"):
        read_label(write_scan(tmp_path / "small.nii.gz", np.zeros((3, 4, 4), np.uint8)), grid)
    off = np.eye(4)
    off[0, 3] = 0.5
    with pytest.raises(BadInput, match=r"0\.5 mm off"):
        read_label(write_scan(tmp_path / "off.nii.gz", np.zeros(SHAPE, np.uint8), off), grid)
    almost = np.eye(4)
    almost[0, 3] = 1e-4
    read_label(write_scan(tmp_path / "almost.nii.gz", np.zeros(SHAPE, np.uint8), almost), grid)


@pytest.mark.parametrize(
    ("value", "message"), [(0.5, "not whole numbers"), (256, "0 to 255"), (-1, "0 to 255"), (np.nan, "0 to 255")]
)
def test_label_values_that_are_no_classes_are_refused(tmp_path: Path, write_scan, value: float, message: str) -> None:
    values = np.zeros(SHAPE, np.float32)
    values[0, 0, 0] = value
    path = write_scan(tmp_path / "label.nii.gz", values)
    with pytest.raises(BadInput, match=message):
        read_label(path, read_grid(path))


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_mask_lies_on_the_scans_own_grid(tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    scan = nib.Nifti1Image(ramp(), oriented_affine(axes, signs))
    scan.set_qform(scan.affine, code=3)
    scan.set_sform(scan.affine, code=1)
    scan.header.set_xyzt_units("mm")
    nib.save(scan, tmp_path / "scan.nii.gz")
    volume, grid = read_image(tmp_path / "scan.nii.gz")
    write_mask(tmp_path / "mask.nii.gz", (volume > 30).astype(np.uint8), like=tmp_path / "scan.nii.gz")
    mask = nib.nifti1.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asanyarray(mask.dataobj), ramp() > 30)
    assert np.allclose(mask.affine, scan.affine)
    read_label(tmp_path / "mask.nii.gz", grid)
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (3, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nii.gz", "scan.nii.gz"]


def test_a_mask_of_a_scaled_scan_holds_zeros_and_ones(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "scan.nii.gz")
    grid = read_grid(tmp_path / "scan.nii.gz")
    mask = np.ones(grid.shape_zyx, np.uint8)
    write_mask(tmp_path / "mask.nii.gz", mask, like=tmp_path / "scan.nii.gz")
    assert np.array_equal(read_label(tmp_path / "mask.nii.gz", grid), mask)


def test_shares_are_read_as_probabilities(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), np.diag([-1.0, 1, -2, 1]))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "scan.nii.gz")
    grid = read_grid(tmp_path / "scan.nii.gz")
    shares = np.linspace(0, 65535, 60).astype(np.uint16).reshape(grid.shape_zyx)
    write_shares(tmp_path / "p1.nii.gz", shares, like=tmp_path / "scan.nii.gz")
    assert nib.nifti1.load(tmp_path / "p1.nii.gz").get_data_dtype() == np.uint16
    probability, _ = read_image(tmp_path / "p1.nii.gz")
    np.testing.assert_allclose(probability, shares / 65535, atol=1e-7)


def test_a_mask_needs_a_nifti_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ends with \.nii\.gz"):
        write_mask(tmp_path / "mask.png", np.zeros((5, 4, 3), np.uint8), like=tmp_path / "scan.nii.gz")


def saved(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    """A scan whose header has other values in some fields."""
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(nib.Nifti1Image(values, None, image.header), path)  # with an affine, nibabel would correct the header
    return path


@pytest.mark.parametrize(("code", "unit", "size"), [(3, "µm", 0.02), (1, "m", 20_000), (2, "mm", 20), (0, "", 20)])
def test_lengths_are_mm_whatever_the_unit_of_the_header(tmp_path: Path, code: int, unit: str, size: float) -> None:
    grid = read_grid(saved(tmp_path / "a.nii.gz", ramp(), np.diag([20.0, 20, 20, 1]), xyzt_units=code | 8))
    assert grid.spacing_zyx == pytest.approx((size,) * 3) and grid.unit == unit
    assert [note.remark for note in grid.notes] == (["units"] if unit in ("µm", "m") else [])
    label = saved(tmp_path / "label.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([20.0, 20, 20, 1]), xyzt_units=0)
    read_label(label, grid)  # one that does not say has its image's unit
    write_mask(tmp_path / "mask.nii.gz", np.zeros(grid.shape_zyx, np.uint8), like=tmp_path / "a.nii.gz")
    assert read_grid(tmp_path / "mask.nii.gz").spacing_zyx == grid.spacing_zyx


def test_sheared_axes_have_their_volume_and_their_steps(tmp_path: Path) -> None:
    sheared = np.diag([-0.5, 0.5, 2.0, 1.0])
    sheared[1, 2] = 1.5  # gantry tilt
    grid = read_grid(saved(tmp_path / "a.nii.gz", ramp(), sheared))
    assert grid.volume_share == pytest.approx(0.5 * 0.5 * 2 / (0.5 * 0.5 * 2.5))
    steps = grid.steps_zyx
    assert isinstance(steps, np.ndarray)
    np.testing.assert_allclose(steps, [[0, 1.5, 2], [0, 0.5, 0], [0.5, 0, 0]])
    (note,) = grid.notes
    assert note.remark == "sheared" and note.detail == "36.9°"
    straight = read_grid(saved(tmp_path / "b.nii.gz", ramp(), np.diag([-0.5, 0.5, 2.0, 1.0])))
    assert straight.steps_zyx == straight.spacing_zyx == (2.0, 0.5, 0.5) and straight.volume_share == 1


def test_what_a_header_leaves_open_is_noted(tmp_path: Path) -> None:
    none = saved(tmp_path / "none.nii", ramp(), sform_code=0, qform_code=0)
    assert [str(note) for note in read_grid(none).notes] == [
        "the header has neither sform nor qform: left and right are a guess"
    ]
    image = nib.Nifti1Image(ramp(), np.eye(4))
    turned = np.eye(4)
    turned[0, 3] = 7
    image.set_sform(np.eye(4), 1)
    image.set_qform(turned, 1)
    nib.save(image, tmp_path / "two.nii")
    assert str(read_grid(tmp_path / "two.nii").notes[0]) == (
        "sform and qform disagree; the sform counts (by up to 7 mm)"
    )
    pixdim = saved(tmp_path / "pixdim.nii", ramp(), pixdim=[1, 2, 2, 2, 0, 0, 0, 0])
    assert "pixdim 2 × 2 × 2 mm" in str(read_grid(pixdim).notes[0])
    odd = saved(tmp_path / "odd.nii", ramp(), xyzt_units=5, intent_code=5)
    assert [note.remark for note in read_grid(odd).notes] == ["units", "intent"]


def test_masks_do_not_inherit_what_a_scans_values_stand_for(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.set_intent("z score", (), "activation")
    nib.save(image, tmp_path / "scan.nii.gz")
    write_mask(tmp_path / "mask.nii.gz", np.zeros((5, 4, 3), np.uint8), like=tmp_path / "scan.nii.gz")
    assert nib.nifti1.load(tmp_path / "mask.nii.gz").header.get_intent() == ("none", (), "")


@pytest.mark.parametrize("seed", range(20))
def test_a_label_with_a_qform_alone_lies_on_an_image_with_both(tmp_path: Path, seed: int) -> None:
    """The quaternion leaves one of its numbers out, which is inexact near half a turn, as between RAS and LPS."""
    rng = np.random.default_rng(seed)
    axes = Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True).as_matrix() @ np.diag([-1.5, -1.5, 4.0])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, rng.uniform(-300, 300, 3)
    shape = (128, 128, 32)
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    label = nib.Nifti1Image(np.zeros(shape, np.uint8), None)
    label.set_qform(affine, 1)
    label.set_sform(None, 0)
    nib.save(image, tmp_path / "image.nii")
    nib.save(label, tmp_path / "label.nii")
    grid = read_grid(tmp_path / "image.nii")
    require_same_grid(tmp_path / "label.nii", read_grid(tmp_path / "label.nii"), grid)
    moved = affine.copy()
    moved[2, 3] += 1.5
    label.set_qform(moved, 1)
    nib.save(label, tmp_path / "label.nii")
    with pytest.raises(BadInput, match=r"off its image \(it"):
        require_same_grid(tmp_path / "label.nii", read_grid(tmp_path / "label.nii"), grid)


def test_why_a_label_is_off_its_image_is_named(tmp_path: Path) -> None:
    grid = read_grid(saved(tmp_path / "a.nii", ramp()))
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 5, degrees=True).as_matrix()
    for affine, header, cause in (
        (np.diag([2.0, 1, 1, 1]), {}, "voxels of 2 × 1 × 1 mm instead of 1 × 1 × 1"),
        (turned, {}, "its axes are turned by 5°"),
        (np.eye(4), {"xyzt_units": 3}, r"turned into mm \(µm\)"),
        (np.eye(4), {"sform_code": 0}, "neither sform nor qform"),
    ):
        with pytest.raises(BadInput, match=cause):
            read_label(saved(tmp_path / "label.nii", np.zeros(SHAPE, np.uint8), affine, **header), grid)


def test_whole_numbers_stored_with_a_slope_are_rounded(tmp_path: Path) -> None:
    values = (np.arange(60).reshape(SHAPE) % 3).astype(np.uint8)
    first = nib.Nifti1Image(values.astype(np.int16), np.eye(4))
    for kind in (np.int16, np.uint8):
        again = nib.Nifti1Image(values.astype(float), np.eye(4), first.header)
        again.header.set_data_dtype(kind)
        nib.save(again, tmp_path / "label.nii.gz")
        proxy = nib.nifti1.load(tmp_path / "label.nii.gz").dataobj
        assert proxy.slope != 1 and (np.asanyarray(proxy) % 1).any()
        found = read_label(tmp_path / "label.nii.gz", read_grid(tmp_path / "label.nii.gz"))
        assert np.array_equal(found.transpose(2, 1, 0), values)
    image = nib.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, tmp_path / "half.nii.gz")
    with pytest.raises(BadInput, match=r"not whole numbers \(0\.5, by scl_slope 0\.5 and scl_inter 0 of the header"):
        read_label(tmp_path / "half.nii.gz", read_grid(tmp_path / "half.nii.gz"))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_no_grid_is_larger_than_its_file(tmp_path: Path, ending: str) -> None:
    content = bytearray(nib.Nifti1Image(ramp(), np.eye(4)).to_bytes())
    content[42:48] = np.array([30_000] * 3, np.int16).tobytes()
    path = tmp_path / f"scan{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(BadInput, match="the file is too small for 27000000000000 voxels"):
        read_grid(path)


@pytest.mark.parametrize("size", [4, 100, 347])
def test_a_file_that_ends_in_its_header_is_one_line(tmp_path: Path, write_scan, size: int) -> None:
    path = write_scan(tmp_path / "scan.nii", ramp())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadInput, match=r"scan\.nii: not a readable NIfTI scan"):
        read_grid(path)


@pytest.mark.parametrize(("name", "packed"), [("scan.nii", True), ("scan.nii.gz", False)])
def test_a_scan_whose_name_and_compression_differ_is_named_as_it_should_be(
    tmp_path: Path, name: str, packed: bool
) -> None:
    content = nib.Nifti1Image(ramp(), np.eye(4)).to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(BadInput, match="compressed: name it .nii" + ("[.]gz" if packed else "$")):
        read_grid(tmp_path / name)


def test_an_unknown_type_of_voxels_is_one_line_without_nibabels_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as outside of pytest
    content = bytearray(nib.Nifti1Image(ramp(), np.eye(4)).to_bytes())
    content[70:72] = np.int16(9999).tobytes()
    (tmp_path / "scan.nii").write_bytes(content)
    with pytest.raises(BadInput, match="data code 9999"):
        read_grid(tmp_path / "scan.nii")
    assert capfd.readouterr() == ("", "")
