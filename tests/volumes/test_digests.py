"""Digests of scans: of all of their content, whatever a file's times say, and for little reading."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.volumes import digests
from hpcseg.volumes.digests import Digests, cache_folder, scan_bytes, scan_digest


def test_the_digest_changes_with_one_voxel(tmp_path: Path, write_scan) -> None:
    values = np.random.default_rng(0).integers(0, 999, (30, 30, 30), dtype=np.int16)
    before = scan_digest(write_scan(tmp_path / "a.nii.gz", values))
    assert scan_digest(write_scan(tmp_path / "b.nii.gz", values)) == before
    values[15, 15, 15] ^= 1
    assert scan_digest(write_scan(tmp_path / "a.nii.gz", values)) != before


def test_digests_of_many_files_take_no_time(tmp_path: Path) -> None:
    for index in range(500):
        (tmp_path / f"{index}.nii.gz").write_bytes(b"%d" % index * 500)
    start = time.process_time()
    assert len({scan_digest(path) for path in tmp_path.iterdir()}) == 500
    assert time.process_time() - start < 1


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        scan_digest(tmp_path / "none.nii.gz")


def label(path: Path, first: int) -> Path:
    """An uncompressed label of 8³ voxels somewhere in 32³: the same size, first and last bytes wherever it is."""
    values = np.zeros((32, 32, 32), np.uint8)
    values[first : first + 8, 8:16, 8:16] = 1
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path


def test_voxels_in_the_middle_of_an_uncompressed_file_count(tmp_path: Path) -> None:
    path = label(tmp_path / "c.nii", 4)
    before, older = Digests().of(path)
    assert label(path, 14).stat().st_size == 32**3 + 352
    now, still = Digests().of(path)
    assert now != before and still == older
    shutil.copy(label(tmp_path / "d.nii", 4), tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "e.nii")
    assert scan_digest(tmp_path / "e.nii") == before


def test_a_gzip_file_of_several_members_is_read_whole(tmp_path: Path) -> None:
    """As bgzip writes it: the last member, with its checksum, is the same whatever the first ones hold."""

    def members(first: int) -> tuple[str, str]:
        content = label(tmp_path / "c.nii", first).read_bytes()
        parts = [content[start : start + 1000] for start in range(0, len(content), 1000)]
        (tmp_path / "m.nii.gz").write_bytes(b"".join(gzip.compress(part, 0, mtime=0) for part in (*parts, b"")))
        return Digests().of(tmp_path / "m.nii.gz")

    (one, older), (other, still) = members(4), members(14)
    assert one != other and older == still


def test_a_gzip_scan_keeps_the_digest_of_its_ends(tmp_path: Path, write_scan) -> None:
    path = write_scan(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (30, 30, 30), dtype=np.int16))
    now, older = Digests().of(path)
    assert now == older and path.stat().st_size > 1024


def test_digests_are_kept_and_made_anew_when_anything_changes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**18))  # the test writes its files now
    path, kept = label(tmp_path / "c.nii", 4), tmp_path / "kept"
    first = Digests(kept)
    found = first.of(path)
    first.save()
    (file,) = kept.iterdir()
    entries = json.loads(file.read_text())
    assert entries["c.nii"][-1] == found[0]
    file.write_text(json.dumps({"c.nii": [*entries["c.nii"][:-1], "kept"], "odd": 3}))
    assert Digests(kept).of(path)[0] == "kept"
    assert Digests(kept, anew=True).of(path) == found
    times = path.stat()
    label(path, 14)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # ctime tells
    assert Digests(kept).of(path)[0] not in {found[0], "kept"}
    file.write_text("no JSON")
    assert Digests(kept).of(path)[0] != found[0]


def test_what_was_written_a_moment_ago_is_not_kept(tmp_path: Path) -> None:
    found = Digests(tmp_path / "kept")
    found.of(label(tmp_path / "c.nii", 4))
    found.save()
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_written_to_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**18))
    (tmp_path / "file").touch()
    found = Digests(tmp_path / "file" / "kept")
    assert found.of(label(tmp_path / "c.nii", 4)) == Digests().of(tmp_path / "c.nii")
    found.save()


def test_read_anew_a_gzip_file_is_compared_with_its_checksum(tmp_path: Path, write_scan) -> None:
    path = write_scan(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (30, 30, 30), dtype=np.int16))
    assert Digests(anew=True).of(path) == Digests().of(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.nii\.gz: damaged"):
        Digests(anew=True).of(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_header_tells_how_long_the_file_is(kind: type) -> None:
    image = kind(np.zeros((5, 6, 7), np.int16), np.eye(4))
    content = image.to_bytes()
    assert scan_bytes(content) == len(content)
    assert scan_bytes(content[:300]) is None and scan_bytes(bytes(540)) is None


def test_a_user_without_a_home_keeps_no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder() is None
