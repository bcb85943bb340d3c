"""Reading the store against plain h5py, and what is said of stores that are not in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.errors import StoreError
from hpcseg.spec import CaseRef
from hpcseg.volumes.packing import pack
from hpcseg.volumes.store import Store, verify


@pytest.fixture(scope="module")
def packed(tiny_dataset: Path, make_spec, write_scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled cases, one of them larger than a chunk on every axis, and one without a label."""
    folder = tmp_path_factory.mktemp("store")
    spec = make_spec(tiny_dataset, classes=((1,), (2,)))
    rng = np.random.default_rng(0)
    image = rng.integers(-900, 900, (45, 70, 64), dtype=np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[5:40, 10:60, 33:64] = rng.integers(0, 3, (35, 50, 31), dtype=np.uint8)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    large = CaseRef(
        name="large",
        image=write_scan(folder / "image.nii.gz", image, affine),
        label=write_scan(folder / "label.nii.gz", label, affine),
    )
    unlabelled = spec.cases[1].model_copy(update={"label": None})
    path = folder / "store.h5"
    pack(spec.model_copy(update={"cases": (spec.cases[0], unlabelled, large)}), path)
    return path


@pytest.fixture(scope="module")
def store(packed: Path) -> Iterator[Store]:
    with Store(packed) as store:
        yield store


@pytest.fixture
def broken(packed: Path, tmp_path: Path) -> Path:
    """A copy of the store that may be broken."""
    return Path(shutil.copy(packed, tmp_path / "store.h5"))


def oracle(values: np.ndarray, start: tuple[int, ...], size: tuple[int, ...], outside: int) -> np.ndarray:
    margins = [(max(0, -a), max(0, a + n - s)) for a, n, s in zip(start, size, values.shape, strict=True)]
    padded = np.pad(values, margins, constant_values=outside)
    box = tuple(slice(a + before, a + before + n) for a, n, (before, _) in zip(start, size, margins, strict=True))
    return padded[box]


STARTS = st.tuples(*[st.integers(-60, 80)] * 3)
SIZES = st.tuples(*[st.integers(1, 90)] * 3)


@given(name=st.sampled_from(["case_001", "large"]), level=st.integers(0, 3), start=STARTS, size=SIZES)
@settings(max_examples=200, deadline=None)
def test_any_box_is_what_h5py_reads(
    store: Store, packed: Path, name: str, level: int, start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    case = store.case(name)
    outside = -1000.0 if level == 0 else -200.0
    code = round((outside - case.intercept) / case.slope)
    with h5py.File(packed, locking=False) as file:
        values = file[f"cases/{name}/image_{level}"][()]
    box = case.read(level, start, size)
    assert box.dtype == np.int16
    assert np.array_equal(box, oracle(values, start, size, code))


@given(start=STARTS, size=SIZES)
@settings(max_examples=100, deadline=None)
def test_any_box_of_the_label_is_what_h5py_reads(
    store: Store, packed: Path, start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    with h5py.File(packed, locking=False) as file:
        values = file["cases/large/label"][()]
    box = store.case("large").read_label(start, size)
    assert box.dtype == np.uint8
    assert np.array_equal(box, oracle(values, start, size, 0))


def test_threads_read_the_same(packed: Path) -> None:
    rng = np.random.default_rng(0)
    starts = rng.integers(-20, 50, (200, 3)).tolist()
    with Store(packed) as one, Store(packed) as other:
        expected = [one.case("large").read(index % 4, start, (40, 41, 42)) for index, start in enumerate(starts)]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda job: other.case("large").read(job[0] % 4, job[1], (40, 41, 42)), enumerate(starts))
            assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_what_a_store_says_of_itself(store: Store) -> None:
    assert store.names == ("case_001", "case_002", "large")
    assert store.spacing_zyx == (2.0, 2.0, 2.0)
    assert store.classes == ((1,), (2,))
    assert store.pyramid_clip == (-200.0, 400.0)
    assert store.levels == 4
    assert store.attrs["dataset"] == "Tiny"
    case = store.case("large")
    assert case is store.case("large")
    assert (case.shape_zyx, case.padding, case.labelled) == ((64, 70, 45), -1000.0, True)


def test_decode_gives_intensities(store: Store) -> None:
    case = store.case("large")
    codes = case.read(0, (0, 0, 0), case.shape_zyx)
    values = case.decode(codes)
    assert values.dtype == np.float32
    assert np.array_equal(values, codes * np.float64(case.slope) + case.intercept)
    assert -900 <= values.min() < values.max() < 900


def test_histograms_count_every_voxel(store: Store) -> None:
    case = store.case("large")
    codes = case.read(0, (0, 0, 0), case.shape_zyx)
    label = case.read_label((0, 0, 0), case.shape_zyx)
    for histogram, voxels in ((case.histogram, codes), (case.foreground_histogram, codes[label > 0])):
        expected, counts = np.unique(voxels, return_counts=True)
        assert np.array_equal(histogram[0], expected)
        assert np.array_equal(histogram[1], counts)
        assert (histogram[0].dtype, histogram[1].dtype) == (np.int16, np.int64)


def test_the_foreground_sample_lies_in_its_class(store: Store) -> None:
    case = store.case("large")
    label = case.read_label((0, 0, 0), case.shape_zyx)
    assert sorted(case.foreground_by_class) == [1, 2]
    for index, voxels in case.foreground_by_class.items():
        assert voxels.dtype == np.int32
        assert len(voxels) == 10_000 < (label == index).sum()
        assert (label[tuple(voxels.T)] == index).all()
        assert len(np.unique(voxels, axis=0)) == len(voxels)
        assert np.array_equal(voxels, voxels[np.lexsort(voxels.T[::-1])])
    small = store.case("case_001")
    label = small.read_label((0, 0, 0), small.shape_zyx)
    assert np.array_equal(small.foreground_by_class[2], np.argwhere(label == 2))


def test_a_case_without_label(store: Store) -> None:
    case = store.case("case_002")
    assert not case.labelled
    assert case.foreground_by_class == {}
    assert len(case.foreground_histogram[0]) == 0
    with pytest.raises(StoreError, match="'case_002' has no label"):
        case.read_label((0, 0, 0), (1, 1, 1))


def test_a_closed_store_leaves_what_was_read(packed: Path) -> None:
    with Store(packed) as store:
        codes = store.case("large").read(0, (0, 0, 0), (8, 8, 8))
    assert codes.sum() == codes.copy().sum()


def test_an_unknown_case_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"store\.h5: no case 'case_999'"):
        store.case("case_999")


def test_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store; pack"):
        Store(tmp_path / "none.h5")


def test_a_truncated_store_is_refused(broken: Path) -> None:
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(StoreError, match="not a readable HDF5 file") as caught:
        Store(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("format", "another", "not a store of hpcseg"),
        ("version", 99, "store version 99, but this hpcseg reads version 1"),
        ("complete", False, "half-written"),
        ("spacing_zyx", None, "damaged"),
        ("classes", "[[", "damaged"),
    ],
)
def test_a_store_with_another_header_is_refused(broken: Path, attribute: str, value: object, message: str) -> None:
    with h5py.File(broken, "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    with pytest.raises(StoreError, match=message):
        Store(broken)


def test_verify_finds_nothing_in_a_good_store(store: Store) -> None:
    assert verify(store) == []


@pytest.mark.parametrize("key", ["image_0", "image_3", "label", "foreground_1", "histogram_counts"])
def test_verify_names_the_case_that_was_altered(broken: Path, key: str) -> None:
    with h5py.File(broken, "r+") as file:
        file["cases/large"][key][(0,) * file["cases/large"][key].ndim] += 1
    with Store(broken) as store:
        (problem,) = verify(store)
    assert "'large' was altered" in problem


def test_verify_notices_other_attributes_and_missing_parts(broken: Path) -> None:
    with h5py.File(broken, "r+") as file:
        file["cases/large"].attrs["intercept"] = 7.0
        del file["cases/case_001/image_0"]
        del file["cases/case_002"].attrs["checksum"]
    with Store(broken) as store:
        problems = verify(store)
        assert "'case_001' was altered" in problems[0]
        assert "'case_001' is damaged" in problems[1]
        assert "'case_002' has no checksum" in problems[2]
        assert "'large' was altered" in problems[3]
        with pytest.raises(StoreError, match="'case_001' is damaged"):
            store.case("case_001")


def test_a_missing_dataset_is_a_store_error(broken: Path) -> None:
    with h5py.File(broken, "r+") as file:
        for key in ("image_2", "foreground_1", "histogram_codes"):
            del file[f"cases/large/{key}"]
    with Store(broken) as store:
        case = store.case("large")
        with pytest.raises(StoreError, match="'large' is damaged"):
            case.read(2, (0, 0, 0), (4, 4, 4))
        with pytest.raises(StoreError, match="'large' is damaged"):
            _ = case.foreground_by_class
        with pytest.raises(StoreError, match="'large' is damaged"):
            _ = case.histogram


def test_compressed_chunks_are_refused(broken: Path) -> None:
    with h5py.File(broken, "r+") as file:
        values = file["cases/large/image_0"][()]
        del file["cases/large/image_0"]
        file["cases/large"].create_dataset("image_0", data=values, chunks=(32, 32, 32), compression="gzip")
    with Store(broken) as store, pytest.raises(StoreError, match="another layout"):
        store.case("large").read(0, (0, 0, 0), (4, 4, 4))
