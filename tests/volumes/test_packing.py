"""Packing: all or nothing, the same for any number of workers, on small and on real scans."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hpcseg.config import PreprocessingConfig
from hpcseg.errors import BadInput, HpcsegError, Interrupted, LeftOut
from hpcseg.inspection.store_findings import check_store
from hpcseg.spec import CaseRef, PackSpec
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.digests import scan_digest
from hpcseg.volumes.packed_case import pack_case
from hpcseg.volumes.packing import pack, parts_folder
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.spacing import plan_spacing
from hpcseg.volumes.store import Store


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """The store in a folder of its own."""
    return tmp_path / "run" / "store.h5"


def assert_nothing_left(destination: Path) -> None:
    assert not destination.parent.exists() or list(destination.parent.iterdir()) == []


def kept_cases(destination: Path) -> list[str]:
    """Cases that are finished and wait for the others; nothing else lies beside them."""
    found: list[str] = []
    for path in parts_folder(destination).iterdir():
        if path.name != "lock":
            with Store(path) as part:
                found += part.names
    return sorted(found)


def test_label_values_of_no_class_are_named_with_their_cases(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset, classes=((1,),))
    spec = spec.model_copy(update={"cases": spec.cases[:2]})
    with pytest.warns(
        LeftOut, match=r"^label value 2 of 2 cases \(case_001, case_002\) is in no class of data\.foregr"
    ):
        pack(spec, destination)


def test_a_store_holds_the_preprocessed_scans(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset)
    calls: list[tuple[int, int, str]] = []
    pack(spec, destination, progress=lambda done, total, name: calls.append((done, total, name)))
    assert calls == [(index, 8, case.name) for index, case in enumerate(spec.cases, start=1)]
    assert [path.name for path in destination.parent.iterdir()] == ["store.h5"]
    assert check_store(destination) == []
    with Store(destination) as store:
        case = store.case("case_003")
        done = preprocess(
            spec.cases[2].image, spec.cases[2].label, spacing_zyx=(2, 2, 2), classes=((1, 2),), padding=-1000.0
        )
        codes = case.read(0, (0, 0, 0), case.shape_zyx)
        assert np.abs(case.coding.decode(codes) - done.volume_zyx).max() <= case.coding.slope / 2
        assert done.label_zyx is not None
        assert np.array_equal(case.read_label((0, 0, 0), case.shape_zyx), done.label_zyx)
        assert case.attrs["crop"] == [[axis.start, axis.stop] for axis in done.crop]
        assert np.array_equal(case.attrs["affine"], done.grid.affine)
        assert tuple(case.attrs["file_shape"]) == done.grid.file_shape
        assert case.attrs["source_digest"] == scan_digest(spec.cases[2].image)


def test_workers_do_not_change_the_result(tiny_dataset: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_dataset, spacing_zyx=(1.5, 1.4, 1.3))
    for workers in (1, 2):
        pack(spec, tmp_path / f"{workers}.h5", workers=workers)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_threads_do_not_change_the_result(tiny_dataset: Path, make_spec) -> None:
    spec = make_spec(tiny_dataset, spacing_zyx=(1.5, 1.4, 1.3))
    codes = set()
    for threads in (1, 2, 4):
        with threadpool_limits(threads, user_api="blas"):
            codes.add(pack_case(spec, spec.cases[0]).arrays["image_0"].tobytes())
    assert len(codes) == 1


def test_a_store_is_replaced_whole(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset)
    pack(spec.model_copy(update={"cases": spec.cases[:1]}), destination)
    with Store(destination) as old:
        pack(spec.model_copy(update={"cases": spec.cases[1:2]}), destination)
        assert old.case("case_001").read(0, (0, 0, 0), (4, 4, 4)).shape == (4, 4, 4)
    with Store(destination) as new:
        assert new.names == ("case_002",)


def test_without_a_clip_the_levels_are_plain_means(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset, pyramid_clip=None, padding="minimum")
    pack(spec.model_copy(update={"cases": spec.cases[:1]}), destination)
    with Store(destination) as store:
        assert store.pyramid_clip is None
        case = store.case("case_001")
        assert case.padding == -1000
        assert case.coding.decode(case.read(1, (-1, 0, 0), (1, 1, 1))) == -1000


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_scan_in_the_middle_costs_no_finished_case(
    dataset: Path, make_spec, destination: Path, workers: int
) -> None:
    spec = make_spec(dataset)
    victim = spec.cases[4].image
    good = victim.read_bytes()
    victim.write_bytes(good[:2000])
    with pytest.raises(BadInput, match=f"{victim}: not a readable NIfTI scan"):
        pack(spec, destination, workers=workers)
    assert not destination.exists()
    kept = kept_cases(destination)
    assert kept[:4] == ["case_001", "case_002", "case_003", "case_004"] if workers == 1 else "case_005" not in kept
    victim.write_bytes(good)
    pack(spec, destination, workers=workers)
    assert check_store(destination) == []
    assert [path.name for path in destination.parent.iterdir()] == ["store.h5"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_leaves_the_old_store(dataset: Path, make_spec, destination: Path, write_scan, workers: int) -> None:
    spec = make_spec(dataset)
    pack(spec.model_copy(update={"cases": spec.cases[:1]}), destination)
    before = destination.read_bytes()
    write_scan(spec.cases[2].image, np.full((26, 28, 24), np.nan, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    with pytest.raises(BadInput, match="NaN"):
        pack(spec, destination, workers=workers)
    assert destination.read_bytes() == before


def test_bad_headers_and_missing_files_are_found_before_the_work(dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(dataset)
    spec.cases[7].image.unlink()
    packed: list[str] = []
    with pytest.raises(BadInput, match=r"case_008\.nii\.gz: no such scan"):
        pack(spec, destination, progress=lambda done, total, name: packed.append(name))
    assert packed == []
    assert_nothing_left(destination)


@pytest.mark.parametrize("classes", [((1, 2),), (), ((1,), (2,))])
def test_an_empty_foreground_names_the_file_and_the_remedy(
    dataset: Path, make_spec, destination: Path, write_scan, classes: tuple[tuple[int, ...], ...]
) -> None:
    spec = make_spec(dataset, classes=classes)
    assert spec.cases[3].label is not None
    write_scan(spec.cases[3].label, np.zeros((26, 28, 24), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    with pytest.raises(BadInput, match=r"labelsTr/case_004\.nii\.gz: empty foreground: .*data\.foreground") as caught:
        pack(spec, destination)
    assert "\n" not in str(caught.value)
    assert "take the case out of dataset.json" in str(caught.value)
    assert not destination.exists()


def test_a_foreground_that_no_label_has_is_refused(tiny_dataset: Path, make_spec, destination: Path) -> None:
    with pytest.raises(BadInput, match=r"empty foreground: no voxel of data\.foreground \(\[7\]\)"):
        pack(make_spec(tiny_dataset, classes=((7,),)), destination)
    assert_nothing_left(destination)


def test_no_case_and_two_cases_of_one_name_are_refused(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset)
    with pytest.raises(BadInput, match="no case to pack"):
        pack(spec.model_copy(update={"cases": ()}), destination)
    with pytest.raises(BadInput, match="a second case is named 'case_001'"):
        pack(spec.model_copy(update={"cases": spec.cases[:1] * 2}), destination)


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_request_to_stop_only_missing_cases_are_packed(
    tiny_dataset: Path, make_spec, destination: Path, tmp_path: Path, workers: int
) -> None:
    spec = make_spec(tiny_dataset)
    packed: list[str] = []
    with pytest.raises(Interrupted, match="finished cases are kept"):
        pack(
            spec,
            destination,
            workers=workers,
            progress=lambda done, total, name: packed.append(name),
            should_stop=lambda: len(packed) == 2,
        )
    assert not destination.exists()
    kept = {path: path.stat().st_mtime_ns for path in parts_folder(destination).iterdir() if path.name != "lock"}
    assert len(kept) >= 2
    seen: set[Path] = set()
    pack(spec, destination, progress=lambda done, total, name: seen.update(p for p in kept if p.exists()))
    assert seen == set(kept)
    pack(spec, tmp_path / "undisturbed.h5")
    assert destination.read_bytes() == (tmp_path / "undisturbed.h5").read_bytes()


def test_a_case_whose_scan_changed_is_packed_anew(dataset: Path, make_spec, destination: Path, write_scan) -> None:
    spec = make_spec(dataset)
    with pytest.raises(Interrupted):
        pack(spec, destination, should_stop=lambda: len(list(parts_folder(destination).glob("????????*"))) == 3)
    write_scan(spec.cases[0].image, np.full((26, 28, 24), 55, np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    pack(spec, destination)
    with Store(destination) as store:
        case = store.case("case_001")
        assert (case.coding.decode(case.read(0, (4, 4, 4), (4, 4, 4))) == 55).all()


def test_a_damaged_finished_case_is_packed_anew(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset)
    with pytest.raises(Interrupted):
        pack(spec, destination, should_stop=lambda: len(list(parts_folder(destination).glob("????????*"))) == 3)
    cut, *_ = (path for path in parts_folder(destination).iterdir() if path.name != "lock")
    cut.write_bytes(cut.read_bytes()[:-100])
    pack(spec, destination)
    assert check_store(destination) == []


def test_no_link_is_followed_and_only_own_names_are_removed(
    tiny_dataset: Path, make_spec, destination: Path, tmp_path: Path
) -> None:
    others, folder = tmp_path / "others", parts_folder(destination)
    theirs = [others / name for name in ("0123456789abcdef0123", "joined", "thesis.tex")]
    others.mkdir()
    destination.parent.mkdir()
    for path in theirs:
        path.write_text("of others")
    folder.symlink_to(others)
    with pytest.raises(BadInput, match=r"\.store\.parts: is a link"):
        pack(make_spec(tiny_dataset), destination)
    folder.unlink()
    folder.mkdir()
    (folder / "notes").write_text("of others")
    for name in ("joined", "0123456789abcdef0123", ".0123456789abcdef0123.k3j_2abc"):
        (folder / name).symlink_to(theirs[2])
    pack(make_spec(tiny_dataset), destination)
    assert check_store(destination) == [] and [path.name for path in folder.iterdir()] == ["notes"]
    assert sorted(others.iterdir()) == sorted(theirs) and {path.read_text() for path in theirs} == {"of others"}


def test_a_second_process_is_sent_away(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset)

    def pack_again(done: int, total: int, name: str) -> None:
        with pytest.raises(HpcsegError, match=r"store\.h5: another process is packing to it"):
            pack(spec, destination)

    pack(spec, destination, progress=pack_again)
    assert check_store(destination) == []


KILLED = """
import sys
import time
from pathlib import Path
from hpcseg.spec import PackSpec
from hpcseg.volumes.packing import pack

if __name__ == "__main__":
    print("begin", flush=True)
    pack(PackSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]))
    print("end", flush=True)
"""


@pytest.mark.slow
def test_kills_change_nothing(write_dataset, make_spec, tmp_path: Path, storm) -> None:
    spec = make_spec(write_dataset(tmp_path / "Tiny", shape_xyz=(70, 64, 60)), spacing_zyx=(1.0, 1.0, 1.0))
    pack(spec, tmp_path / "undisturbed.h5")
    (tmp_path / "pack.py").write_text(KILLED)
    rng = np.random.default_rng(0)
    destination = tmp_path / "run" / "store.h5"
    command = [sys.executable, str(tmp_path / "pack.py"), spec.model_dump_json(), str(destination)]
    kills = 0
    while kills < storm(2, 20):
        with subprocess.Popen([*command, str(1 + kills % 2)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begin\n"
            try:
                process.wait(timeout=rng.uniform(0, 2))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
        if destination.exists():
            assert destination.read_bytes() == (tmp_path / "undisturbed.h5").read_bytes()
            shutil.rmtree(destination.parent)
    pack(spec, destination)
    assert destination.read_bytes() == (tmp_path / "undisturbed.h5").read_bytes()
    assert [path.name for path in destination.parent.iterdir()] == ["store.h5"]


def test_workers_end_with_a_killed_parent(tiny_dataset: Path, make_spec, destination: Path, tmp_path: Path) -> None:
    (tmp_path / "pack.py").write_text(KILLED)
    spec = make_spec(tiny_dataset, spacing_zyx=(0.3, 0.3, 0.3))
    command = [sys.executable, str(tmp_path / "pack.py"), spec.model_dump_json(), str(destination), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while len(workers := children.read_text().split()) < 3:  # a resource tracker and two workers
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not destination.exists()


def test_workers_ignore_the_requests_to_stop_that_reach_all_processes_of_a_job(
    tiny_dataset: Path, make_spec, destination: Path, tmp_path: Path
) -> None:
    (tmp_path / "pack.py").write_text(KILLED)
    spec = make_spec(tiny_dataset)
    command = [sys.executable, str(tmp_path / "pack.py"), spec.model_dump_json(), str(destination), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        sent = set()
        while process.poll() is None:  # from their first instant on
            for pid in children.read_text().split() if children.exists() else ():
                for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), number)
                sent.add(pid)
            time.sleep(0.01)
        assert process.returncode == 0 and len(sent) >= 3
    assert check_store(destination) == []


def test_a_compressed_store_holds_the_same(tiny_dataset: Path, make_spec, destination: Path, tmp_path: Path) -> None:
    spec = make_spec(tiny_dataset)
    pack(spec, destination)
    pack(spec.model_copy(update={"codec": "bitshuffle-lz4"}), tmp_path / "small.h5")
    assert (tmp_path / "small.h5").stat().st_size < 0.6 * destination.stat().st_size
    assert check_store(tmp_path / "small.h5") == []
    with Store(destination) as plain, Store(tmp_path / "small.h5") as small:
        assert small.codec == "bitshuffle-lz4"
        for name in plain.names:
            for level in range(4):
                shape = plain.case(name).shape_of(level)
                assert np.array_equal(
                    plain.case(name).read(level, (0, 0, 0), shape), small.case(name).read(level, (0, 0, 0), shape)
                )


def test_a_store_is_what_its_docstring_says(tiny_dataset: Path, make_spec, destination: Path) -> None:
    spec = make_spec(tiny_dataset)
    pack(spec.model_copy(update={"cases": spec.cases[:1]}), destination)
    with h5py.File(destination) as file:
        assert dict(file.attrs).keys() == {
            *("format", "version", "dataset", "id", "spacing_zyx", "levels", "classes", "pyramid_clip", "codec")
        }
        group = file["cases/case_001"]
        assert sorted(group) == [
            *("foreground_1", "foreground_codes", "foreground_counts", "histogram_codes", "histogram_counts"),
            *("image_0", "image_1", "image_2", "image_3", "label"),
        ]
        for level in range(4):
            assert (group[f"image_{level}"].dtype, group[f"image_{level}"].chunks) == (np.int16, (32, 32, 32))
        assert (group["label"].dtype, group["label"].chunks) == (np.uint8, (32, 32, 32))


SPACINGS = [(5.0, 0.7, 0.7), (1.0, 0.8, 0.9), (2.0, 0.6004, 0.6)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, (2.0, 2.0, 2.0)),
        ({"isotropic": False}, (2.0, 0.7, 0.7)),
        ({"spacing": 1.5}, (1.5, 1.5, 1.5)),
        ({"spacing": (3.0, 1.0, 1.25)}, (3.0, 1.0, 1.25)),
    ],
)
def test_plan_spacing(keys: dict[str, object], expected: tuple[float, float, float]) -> None:
    assert plan_spacing(PreprocessingConfig.model_validate(keys), SPACINGS) == expected


def test_plan_spacing_rounds_and_needs_cases() -> None:
    with pytest.raises(BadInput, match=r"median of the voxels is 1e-06 mm; correct the scans' headers"):
        plan_spacing(PreprocessingConfig(isotropic=False), [(1e-6, 1.0, 1.0)])
    assert plan_spacing(PreprocessingConfig(), [(0.7285156, 0.7, 0.7)]) == (0.729, 0.729, 0.729)
    with pytest.raises(BadInput, match="no labelled case"):
        plan_spacing(PreprocessingConfig(), [])


def real_spec(root: Path, names: set[str], spacing: float, padding: float | str) -> PackSpec:
    dataset = open_dataset(root)
    cases: tuple[CaseRef, ...] = tuple(c for c in dataset.training + dataset.test if c.name in names)
    return PackSpec.model_validate(
        {
            "id": "pack-real",
            "dataset": dataset.name,
            "cases": cases,
            "spacing_zyx": (spacing,) * 3,
            "classes": ((1, 2),),
            "padding": padding,
            "pyramid_clip": (-200.0, 400.0) if dataset.is_ct else None,
        }
    )


def test_real_ct_packs(shared_data: Path, destination: Path) -> None:
    pack(real_spec(shared_data / "Task03_LiverCT", {"totalseg_ex", "lits_005"}, 2.5, -1000.0), destination)
    assert check_store(destination) == []
    with Store(destination) as store:
        assert [store.case(name).labelled for name in store.names] == [True, False]
        case = store.case("lits_005")
        assert len(case.foreground_by_class[1]) == 10_000
        liver = np.median(np.repeat(*case.foreground_histogram))
        assert 20 < liver < 200


def test_real_mr_packs(shared_data: Path, destination: Path) -> None:
    names = {f"hippocampus_{index:03d}" for index in (1, 3, 4)}
    pack(real_spec(shared_data / "Task04_Hippocampus", names, 1.0, "minimum"), destination)
    assert check_store(destination) == []
    with Store(destination) as store:
        assert all(store.case(name).foreground_by_class[1].size for name in store.names)
