"""Reading the store against plain h5py, and what is said of stores that are not in order."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.errors import StoreError
from hpcseg.inspection.store_findings import check_store, inspect_store
from hpcseg.spec import CaseRef
from hpcseg.volumes.chunks import CODECS
from hpcseg.volumes.packing import pack
from hpcseg.volumes.seal import SEAL_BYTES, Seal, file_digest, read_seal
from hpcseg.volumes.store import LEVELS, Store, StoredCase

Packer = Callable[[str], Path]


@pytest.fixture(scope="module")
def packed_as(tiny_dataset: Path, make_spec, write_scan, tmp_path_factory: pytest.TempPathFactory) -> Packer:
    """A store by its codec: two labelled cases, one larger than a chunk on every axis, and one without a label."""
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

    @functools.cache
    def make(codec: str) -> Path:
        path = folder / codec / "store.h5"
        pack(spec.model_copy(update={"cases": (spec.cases[0], unlabelled, large), "codec": codec}), path)
        return path

    return make


@pytest.fixture(scope="module")
def packed(packed_as: Packer) -> Path:
    """An uncompressed store."""
    return packed_as("none")


@pytest.fixture(scope="module")
def store(packed: Path) -> Iterator[Store]:
    with Store(packed) as store:
        yield store


@pytest.fixture(scope="module")
def stores(packed_as: Packer) -> Iterator[dict[str, Store]]:
    """The same cases in each codec."""
    with Store(packed_as("none"), verify=True) as plain, Store(packed_as("bitshuffle-lz4"), verify=True) as small:
        yield {"none": plain, "bitshuffle-lz4": small}


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


@given(
    codec=st.sampled_from(CODECS),
    name=st.sampled_from(["case_001", "large"]),
    level=st.integers(0, 3),
    start=STARTS,
    size=SIZES,
)
@settings(max_examples=300)
def test_any_box_is_what_h5py_reads(
    stores: dict[str, Store], codec: str, name: str, level: int, start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    store = stores[codec]
    case = store.case(name)
    outside = -1000.0 if level == 0 else -200.0
    code = round((outside - case.coding.intercept) / case.coding.slope)
    with h5py.File(store.path, locking=False) as file:
        values = file[f"cases/{name}/image_{level}"][()]
    box = case.read(level, start, size)
    assert box.dtype == np.int16
    assert case.paddings[level] == code
    assert case.shape_of(level) == values.shape
    assert np.array_equal(box, oracle(values, start, size, code))


@given(codec=st.sampled_from(CODECS), start=STARTS, size=SIZES)
@settings(max_examples=100)
def test_any_box_of_the_label_is_what_h5py_reads(
    stores: dict[str, Store], codec: str, start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    with h5py.File(stores[codec].path, locking=False) as file:
        values = file["cases/large/label"][()]
    box = stores[codec].case("large").read_label(start, size)
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
    assert store.attrs["levels"] == LEVELS
    assert store.attrs["dataset"] == "Tiny"
    case = store.case("large")
    assert case is store.case("large")
    assert (case.shape_zyx, case.padding, case.labelled) == ((64, 70, 45), -1000.0, True)


def test_decode_gives_intensities(store: Store) -> None:
    case = store.case("large")
    codes = case.read(0, (0, 0, 0), case.shape_zyx)
    values = case.coding.decode(codes)
    assert values.dtype == np.float32
    assert np.array_equal(values, codes * np.float64(case.coding.slope) + case.coding.intercept)
    assert -900 <= values.min() < values.max() < 900


def test_histograms_count_every_voxel(store: Store) -> None:
    case = store.case("large")
    codes = case.read(0, (0, 0, 0), case.shape_zyx)
    label = case.read_label((0, 0, 0), case.shape_zyx)
    for histogram, voxels in ((case.histogram, codes), (case.foreground_histogram, codes[label > 0])):
        expected, counts = np.unique(voxels, return_counts=True)
        assert np.array_equal(histogram[0], case.coding.decode(expected))
        assert np.array_equal(histogram[1], counts)
        assert (histogram[0].dtype, histogram[1].dtype) == (np.float32, np.int64)


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


def test_a_cut_store_is_refused(broken: Path) -> None:
    size = broken.stat().st_size
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(StoreError, match=f"the store has 5000 bytes instead of {size}: cut or altered") as caught:
        Store(broken)
    assert "\n" not in str(caught.value)


def test_a_store_without_seal_is_half_written(broken: Path) -> None:
    broken.write_bytes(bytes(SEAL_BYTES) + broken.read_bytes()[SEAL_BYTES:])
    with pytest.raises(StoreError, match="half-written"):
        Store(broken)


def test_other_files_and_versions_are_refused(broken: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a store"):
        Store(tmp_path / "other.h5")
    broken.write_bytes(broken.read_bytes().replace(b"hpcseg-store 2\n", b"hpcseg-store 9\n", 1))
    with pytest.raises(StoreError, match="store version 9, but this hpcseg reads version 2"):
        Store(broken)


def test_an_altered_index_is_refused(broken: Path) -> None:
    data = bytearray(broken.read_bytes())
    seal = read_seal(broken)
    place = data.index(b"slope", seal.index_offset) + len(b'slope\\":')
    data[place] = ord("7")
    broken.write_bytes(data)
    with pytest.raises(StoreError, match="index is damaged"):
        Store(broken)


def test_nothing_is_wrong_with_a_good_store(packed: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    assert check_store(packed, lambda done, total, name: calls.append((done, total, name))) == []
    assert calls == [(1, 1, "store.h5")]


@pytest.mark.parametrize("key", ["image_0", "image_3", "label", "foreground_1", "histogram_counts"])
def test_the_case_that_was_altered_is_named(broken: Path, key: str) -> None:
    with h5py.File(broken, "r+") as file:
        file["cases/large"][key][(0,) * file["cases/large"][key].ndim] += 1
    (problem,) = check_store(broken)
    assert f"case 'large': {key}" in problem
    assert "differ" in problem


@pytest.mark.parametrize("codec", ["none", "bitshuffle-lz4"])
def test_altered_voxels_are_refused_with_verification(packed_as, tmp_path: Path, codec: str) -> None:
    broken = Path(shutil.copy(packed_as(codec), tmp_path / "store.h5"))
    with Store(broken) as store:
        good = store.case("large").read(0, (0, 0, 0), (40, 70, 45))
    with h5py.File(broken, locking=False) as file:
        place = file["cases/large/image_0"].id.get_chunk_info_by_coord((32, 32, 32))
    data = bytearray(broken.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 0x10
    broken.write_bytes(data)
    with Store(broken, verify=True) as store:
        case = store.case("large")
        for _ in range(2):
            with pytest.raises(StoreError, match=r"'large' is damaged .*image_0: chunk 1, 1, 1 differs"):
                case.read(0, (33, 33, 33), (4, 4, 4))
            assert np.array_equal(case.read(0, (0, 0, 0), (40, 30, 45)), good[:, :30])


def test_altered_small_arrays_are_always_refused(broken: Path) -> None:
    with h5py.File(broken, "r+") as file:
        file["cases/large/foreground_1"][0, 0] += 1
        file["cases/large/histogram_counts"][0] += 1
    with Store(broken) as store:
        case = store.case("large")
        with pytest.raises(StoreError, match=r"'large' is damaged .*foreground_1"):
            _ = case.foreground_by_class
        with pytest.raises(StoreError, match=r"'large' is damaged .*histogram_counts"):
            _ = case.histogram


def test_altered_attributes_and_missing_keys_are_noticed(packed: Path, tmp_path: Path) -> None:
    def alter(number: int, change) -> None:
        path = Path(shutil.copy(packed, tmp_path / f"{number}.h5"))
        with h5py.File(path, "r+") as file:
            change(file)
        assert check_store(path), number

    alter(1, lambda file: file["cases/large"].attrs.modify("intercept", 7.0))
    alter(2, lambda file: file["cases/large"].attrs.__delitem__("crop"))
    alter(3, lambda file: file["cases"].__delitem__("case_001"))
    alter(4, lambda file: file["cases/large"].__delitem__("image_2"))
    alter(5, lambda file: file.attrs.__delitem__("classes"))
    alter(6, lambda file: file.__delitem__("index"))
    alter(7, lambda file: file.__delitem__("chunks"))


Index = dict[str, Any]


def crafted(path: Path, change: Callable[[Index, Index], object]) -> None:
    """Change the index of a store and one case's entry, and make every checksum fit again."""
    content = path.read_bytes()
    seal = read_seal(path)
    index = json.loads(content[seal.index_offset : seal.index_offset + seal.index_size])
    entry = json.loads(index["cases"]["large"])
    changed = change(index, entry)
    if isinstance(changed, str):
        text = changed.encode()
    else:
        index["cases"]["large"] = json.dumps(entry)
        text = json.dumps(index).encode()
    new = Seal(
        size=len(content) + len(text),
        digest="",
        index_offset=len(content),
        index_size=len(text),
        index_digest=hashlib.sha256(text).hexdigest(),
    )
    path.write_bytes(new.to_bytes() + content[SEAL_BYTES:] + text)
    digest = file_digest(path)
    path.write_bytes(dataclasses.replace(new, digest=digest).to_bytes() + content[SEAL_BYTES:] + text)


CRAFTED: dict[str, Callable[[Index, Index], object]] = {
    "deep": lambda index, case: "[" * 100_000,
    "no object": lambda index, case: "7",
    "no attributes": lambda index, case: index.pop("attributes"),
    "no id": lambda index, case: index["attributes"].pop("id"),
    "spacing": lambda index, case: index["attributes"].update(spacing_zyx=[1, 0, 1]),
    "spacing of text": lambda index, case: index["attributes"].update(spacing_zyx="abc"),
    "classes": lambda index, case: index["attributes"].update(classes="[1]"),
    "codec": lambda index, case: index["attributes"].update(codec=["none"]),
    "chunks beyond": lambda index, case: index.update(chunks=[0, 10**12]),
    "chunks before": lambda index, case: index.update(chunks=[-16, 1]),
    "chunks of text": lambda index, case: index.update(chunks=["0", "1"]),
    "no cases": lambda index, case: json.dumps(index | {"cases": 7}),
    "cases in a list": lambda index, case: json.dumps(index | {"cases": [["large"]]}),
    "a case is no text": lambda index, case: json.dumps(index | {"cases": {"large": 7}}),
    "a case is cut": lambda index, case: json.dumps(index | {"cases": {"large": "{"}}),
    "no slope": lambda index, case: case["attributes"].update(slope=0.0),
    "no padding": lambda index, case: case["attributes"].update(padding=math.nan),
    "no affine": lambda index, case: case["attributes"].pop("affine"),
    "30000³": lambda index, case: case["volumes"]["image_0"].update(shape=[30000] * 3),
    "30000³ with its chunks": lambda index, case: case["volumes"]["image_0"].update(shape=[30000] * 3, chunks=938**3),
    "no voxels": lambda index, case: case["volumes"]["image_0"].update(shape=[0, 0, 0], chunks=0),
    "a level of 30000³": lambda index, case: case["volumes"]["image_2"].update(shape=[30000] * 3),
    "a shape of fractions": lambda index, case: case["volumes"]["image_0"].update(shape=[40.0, 70.0, 45.0]),
    "no level": lambda index, case: case["volumes"].pop("image_3"),
    "other chunks": lambda index, case: case["volumes"]["image_0"].update(first=-1),
    "an array beyond": lambda index, case: case["arrays"]["histogram_codes"].update(offset=10**15),
    "an array of 10¹⁸": lambda index, case: case["arrays"]["foreground_1"].update(shape=[10**18, 3]),
    "an array of objects": lambda index, case: case["arrays"]["foreground_1"].update(dtype="|O"),
}


@pytest.mark.parametrize("change", CRAFTED)
def test_a_crafted_store_is_one_line_and_asks_for_no_memory(broken: Path, change: str) -> None:
    crafted(broken, lambda index, case: None)
    with Store(broken) as store:
        contents(store.case("large"))
    crafted(broken, CRAFTED[change])
    tracemalloc.start()
    try:
        with pytest.raises(StoreError) as caught, Store(broken) as store:
            contents(store.case("large"))
        assert str(broken) in str(caught.value)
        assert "\n" not in str(caught.value) and tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    inspect_store(broken)  # lists what it finds, and goes on


def corrupt(path: Path, rng: np.random.Generator) -> str:
    """Do one random harm to a store: flip, overwrite, cut, append, or remove a key; returns what was done."""
    kind = rng.choice(["flip", "burst", "noise", "cut", "append", "remove", "attribute"])
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data) - 16))
    if rng.random() < 0.3:
        at = int(rng.integers(4096))  # the structures at the beginning are small, and hit too rarely otherwise
    if kind == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "burst":
        data[at : at + 16] = bytes(byte ^ 0xFF for byte in data[at : at + 16])
    elif kind == "noise":
        end = min(at + int(rng.integers(16, 5000)), len(data))
        data[at:end] = rng.bytes(end - at)
    elif kind == "cut":
        del data[at:]
    elif kind == "append":
        data += rng.bytes(int(rng.integers(1, 100)))
    if kind in {"remove", "attribute"}:
        with h5py.File(path, "r+") as file:
            groups = [file, file["cases"], *file["cases"].values()]
            group = groups[rng.integers(len(groups))]
            holder = group if kind == "remove" or not len(group.attrs) else group.attrs
            key = sorted(holder)[rng.integers(len(holder))]
            del holder[key]
            return f"{kind} {group.name} {key}"
    path.write_bytes(data)
    return f"{kind} at {at}"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "bitshuffle-lz4"])
def test_corruptions_are_detected_and_never_read(packed_as, tmp_path: Path, codec: str, storm) -> None:
    rng = np.random.default_rng(1)
    original, path = packed_as(codec), tmp_path / "store.h5"
    with Store(original) as store:
        good = {name: contents(store.case(name)) for name in store.names}
    for _ in range(storm(40, 300)):
        shutil.copy(original, path)
        what = corrupt(path, rng)
        assert check_store(path), what
        try:
            with Store(path, verify=True) as store:
                for name in store.names:
                    for key, value in contents(store.case(name)).items():
                        assert np.array_equal(value, good[name][key]), (what, name, key)
        except StoreError as error:
            assert "\n" not in str(error)


def contents(case: StoredCase) -> dict[str, np.ndarray | float]:
    """Everything that a case has to give."""
    found: dict[str, np.ndarray | float] = {
        "slope": case.coding.slope,
        "intercept": case.coding.intercept,
        "padding": case.padding,
    }
    for level in range(4):
        found[f"image_{level}"] = case.read(level, (-1, -1, -1), [n + 2 for n in case.shape_of(level)])
    if case.labelled:
        found["label"] = case.read_label((0, 0, 0), case.shape_zyx)
    found |= {f"foreground_{index}": voxels for index, voxels in case.foreground_by_class.items()}
    found["values"], found["counts"] = case.histogram
    return found


def test_a_box_is_read_into_a_view(store: Store) -> None:
    case = store.case("large")
    buffer = np.full((2, 30, 31, 32), 99, np.int16)
    found = case.read(0, (-3, 20, 5), (30, 31, 32), out=buffer[1])
    assert found.base is buffer
    assert np.array_equal(buffer[1], case.read(0, (-3, 20, 5), (30, 31, 32)))
    assert (buffer[0] == 99).all()
