from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from hpcseg.errors import StageFailed, lack_of_space
from hpcseg.jobs.entry import execute
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir, cause_of
from hpcseg.study.plan import Plan
from hpcseg.training.checkpoint import load_checkpoint, load_tensors
from tests.faults import files_of_at_most

Planner = Callable[..., Plan]


@pytest.fixture
def training(plan_study: Planner) -> Iterator[RunDir]:
    """A training run of some seconds whose pack is made; its checkpoints have 57 kB."""
    plan, threads = plan_study("training.epochs=20"), torch.get_num_threads()
    for run_id, planned in plan.stages.items():
        run = plan.run(run_id)
        run.path.mkdir(parents=True)
        write(run, planned.spec.model_dump_json())
        if run.stage == "pack":
            assert execute(run) == "done"
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def small_disk(training: RunDir) -> Iterator[RunDir]:
    """The same run on a disk of its own, with room for one checkpoint and little else."""
    text = (training.path / "run.json").read_text()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=140k", "hpcseg-test", str(training.path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        write(training, text)
        yield training
    finally:
        subprocess.run(["umount", "--lazy", str(training.path)], check=True)


def write(run: RunDir, text: str) -> None:
    (run.path / "run.json").write_text(text)
    run.write_submission(Submission(backend="foreground", submitted=time.time()))


def undisturbed(run: RunDir, text: str) -> dict[str, torch.Tensor]:
    """Weights of the same run in another folder of runs."""
    root = run.runs_root.with_name("undisturbed")
    shutil.copytree(run.runs_root / "pack", root / "pack")
    other = RunDir.of(root, run.stage, run.id)
    other.path.mkdir(parents=True)
    write(other, text)
    assert execute(other) == "done"
    return weights_of(other)


def weights_of(run: RunDir) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_tensors(run.path / "model.pt")["weights"]
    return weights


def check_failed(run: RunDir) -> None:
    """The evidence says disk, the last checkpoint is sound, nothing unfinished lies about."""
    failure, heartbeat = run.failure(), run.heartbeat()
    assert failure is not None and failure.cause == "disk"
    assert failure.message.startswith(f"{run.path}: ") and "hpcseg sweep goes on from there" in failure.message
    assert heartbeat is not None and heartbeat.state == "failed" and heartbeat.progress > 0
    state = load_checkpoint(run.path)
    assert state is not None and 2 * state["progress"]["epoch"] == heartbeat.progress
    assert not {path.name for path in run.path.glob(".*")} - {".lock"}
    assert [attempt.cause for attempt in read_attempts(run.path)] == ["disk"]


def test_a_run_goes_on_where_a_full_disk_stopped_it(small_disk: RunDir) -> None:
    text = (small_disk.path / "run.json").read_text()
    with pytest.raises(StageFailed, match="no space left"):
        execute(small_disk)
    check_failed(small_disk)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk.path)], check=True)
    assert execute(small_disk) == "done"
    found, expected = weights_of(small_disk), undisturbed(small_disk, text)
    assert all(found[name].equal(expected[name]) for name in expected)
    assert [attempt.cause for attempt in read_attempts(small_disk.path)] == ["disk", "done"]


def test_a_limit_of_file_size_is_a_full_disk(training: RunDir) -> None:
    with files_of_at_most(40_000), pytest.raises(StageFailed, match=r"files may not grow any more"):
        execute(training)
    failure = training.failure()
    assert failure is not None and failure.cause == "disk"
    assert not list(training.path.glob(".checkpoint*")) and load_checkpoint(training.path) is None
    assert execute(training) == "done" and training.failure() is None


def test_a_run_that_cannot_even_write_down_its_failure_leaves_it_in_the_log(
    training: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with files_of_at_most(0), pytest.raises(StageFailed, match=r"files may not grow any more"):
        execute(training)
    said = capsys.readouterr().err
    assert "heartbeat.json: cannot be written" in said and "attempts.jsonl: cannot be written" in said
    assert "error.json cannot be written" in said and "Traceback" in said
    assert execute(training) == "done"


FULL = {"blocks": "size=200k", "inodes": "size=4m,nr_inodes=12"}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", FULL)
def test_a_pack_on_a_full_disk_says_so_and_which_folder(kind: str, workers: int, plan_packs: Planner) -> None:
    plan = plan_packs()
    (run_id,) = plan.stages
    run = plan.run(run_id)
    run.path.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", FULL[kind], "hpcseg-test", str(run.path)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        write(run, plan.stages[run_id].spec.model_dump_json())
        submission = run.submission()
        assert submission is not None
        run.write_submission(submission.model_copy(update={"workers": workers}))
        if kind == "blocks":
            (run.path / "other").write_bytes(b"1" * (150 << 10))  # so much is left that the first case does not fit
        else:
            for number in range(4):
                (run.path / str(number)).touch()
        with pytest.raises(StageFailed, match=f"^{run.path}.*: no space left; free some"):
            execute(run)
        failure = run.failure()
        assert failure is None or failure.cause == "disk"  # None: not even that could be written
        for path in run.path.iterdir():
            if path.name == "other" or path.name.isdigit():
                path.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m,nr_inodes=1000", str(run.path)], check=True)
        assert execute(run) == "done"
    finally:
        subprocess.run(["umount", "--lazy", str(run.path)], check=True)


def test_what_hdf5_says_of_a_full_disk_is_understood_wherever_it_comes_from() -> None:
    def raised() -> BaseException:
        try:
            try:
                raise RuntimeError("Can't write (file write failed: errno = 28, error message = 'No space', buf = 0x1)")
            except RuntimeError as first:
                raise RuntimeError("Can't decrement id ref count") from first
        except RuntimeError as last:
            return last

    found = lack_of_space(raised())
    assert found is not None and found.errno == 28 and cause_of(raised()) == "disk"
    assert lack_of_space(ValueError("errno = 2")) is None and cause_of(ValueError("errno = 2")) == "python"
