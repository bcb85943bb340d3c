"""What earlier versions made of scans that are not compressed: recognised, unless a scan was written after it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.volumes.digests import Digests
from tests.planned import STUDY

Planner = Callable[..., Plan]


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The tiny dataset as .nii, and with another last voxel of each image: to learn from, and to test on."""
    for name in ("Tiny", "Test"):
        for source in tiny_dataset.rglob("*.nii.gz"):
            target = tmp_path / "data" / name / source.parent.name / source.name.removesuffix(".gz")
            target.parent.mkdir(parents=True, exist_ok=True)
            content = bytearray(gzip.decompress(source.read_bytes()))
            content[-1] ^= name == "Test" and source.parent.name.startswith("images")
            target.write_bytes(content)
        description = (tiny_dataset / "dataset.json").read_text().replace(".nii.gz", ".nii")
        (tmp_path / "data" / name / "dataset.json").write_text(json.dumps(json.loads(description)))
    return tmp_path / "data"


def ids(plan: Plan) -> tuple[str, str]:
    """Of the pack and of the training run."""
    (pack,), (train,) = plan.of_stage("pack"), plan.of_stage("train")
    return pack, train


def change_in_place(path: Path) -> None:
    """Another voxel in the middle of a file; size, both ends and the time of writing stay."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def of_earlier(plan: Callable[[], Plan], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The ids that versions before 0.2 gave."""
    with monkeypatch.context() as patch:
        patch.setattr(Digests, "of", lambda self, path, of=Digests.of: (of(self, path)[1],) * 2)
        return ids(plan())


@pytest.mark.parametrize("part", ["Tiny/labelsTr", "Tiny/imagesTr", "Test/labelsTr"])
def test_a_scan_changed_in_place_makes_other_runs(plan_study: Planner, data: Path, part: str) -> None:
    pack, train = ids(plan_study("data.test=Test", data=data))
    change_in_place(sorted((data / part).iterdir())[0])
    other_pack, other_train = ids(plan_study("data.test=Test", data=data))
    assert (other_pack != pack, other_train != train) == (part.startswith("Tiny"), True)


def test_what_an_earlier_version_made_is_recognised_unless_a_scan_is_newer(
    plan_study: Planner, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan() -> Plan:
        return plan_study("data.test=Test", data=data)

    now, before = ids(plan()), of_earlier(plan, monkeypatch)
    assert not {*now} & {*before}
    store, result = tmp_path / "runs/pack" / before[0] / "store.h5", tmp_path / "runs/train" / before[1] / "result.json"
    for path in (store, result, result.with_name("run.json")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert ids(plan()) == before
    for path, kept in (
        (sorted((data / "Test/labelsTr").iterdir())[0], before[0]),
        (sorted((data / "Tiny/labelsTr").iterdir())[0], now[0]),
    ):
        os.utime(path)
        assert ids(plan())[0] == kept and ids(plan())[1] != before[1]


def test_a_run_that_has_measured_nothing_goes_on(
    plan_study: Planner, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path
) -> None:
    (data / "Gz").symlink_to(tiny_dataset)  # its pack has one id only

    def plan() -> Plan:
        return plan_study("data.dataset=Gz", "data.test=Test", data=data)

    now, before = ids(plan()), of_earlier(plan, monkeypatch)
    assert (now[0] == before[0], now[1] == before[1]) == (True, False)
    run = tmp_path / "runs/train" / before[1]
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    assert ids(plan()) == before
    (run / "evaluation.jsonl").write_text("{}\n")
    os.utime(run / "evaluation.jsonl", (1, 1))
    assert ids(plan()) == now


def test_on_demand_every_byte_is_compared_with_its_checksum(
    write_sweep: Callable[[str], Path], dataset: Path, tmp_path: Path
) -> None:
    sweep, image = read_sweep(write_sweep(STUDY)), sorted((dataset / "imagesTr").iterdir())[0]
    plan = make_plan(sweep, dataset.parent, tmp_path / "runs", verify_data=True)
    change_in_place(image)
    assert ids(make_plan(sweep, dataset.parent, tmp_path / "runs")) == ids(plan)
    with pytest.raises(BadInput, match=f"{image.name}: damaged"):
        make_plan(sweep, dataset.parent, tmp_path / "runs", verify_data=True)
