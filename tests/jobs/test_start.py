"""Before a pickle is loaded, who can have written it is looked at."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hpcseg.owners import WrittenByOthers, read_own
from hpcseg.runs.rundir import RunDir

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A pickle where an array's lies."""
    path = tmp_path / "runs" / "slurm" / "train-1" / "task.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    for folder in (path.parent, *list(path.parents)[1:3]):
        folder.chmod(0o755)
    path.chmod(0o600)
    return path


def read(path: Path) -> bytes:
    return read_own(path.parents[2], path)


def test_what_nobody_else_could_write_is_read(pickled: Path) -> None:
    assert read(pickled) == b"content"
    pickled.parents[2].chmod(0o1777)  # sticky: nobody can exchange what belongs to another
    assert read(pickled) == b"content"
    pickled.chmod(0o666)
    pickled.parent.chmod(0o700)
    assert read(pickled) == b"content"


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_in_which_others_may_write_is_named(pickled: Path, above: int) -> None:
    pickled.parents[above].chmod(0o777)
    with pytest.raises(WrittenByOthers, match=rf"{pickled.parents[above]}: others may write here \(drwxrwxrwx\)"):
        read(pickled)


def test_a_file_that_others_may_write_is_named(pickled: Path) -> None:
    pickled.chmod(0o602)
    with pytest.raises(WrittenByOthers, match=r"task\.pkl: others may write here"):
        read(pickled)


def test_links_are_not_followed(pickled: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    pickled.parent.rename(elsewhere)
    pickled.parent.symlink_to(elsewhere)
    with pytest.raises(WrittenByOthers, match="is not what hpcseg left there"):
        read(pickled)
    pickled.parent.unlink()
    pickled.parent.mkdir(0o755)
    pickled.symlink_to(elsewhere / "task.pkl")
    with pytest.raises(WrittenByOthers, match="is not what hpcseg left there"):
        read(pickled)


@as_root
@pytest.mark.parametrize("above", [None, 0, 1, 2])
def test_what_belongs_to_another_user_is_named(pickled: Path, above: int | None) -> None:
    path = pickled if above is None else pickled.parents[above]
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(WrittenByOthers, match=f"{path}: belongs to user {NOBODY}"):
        read(pickled)


@as_root
def test_a_groups_folder_is_named(pickled: Path) -> None:
    pickled.parents[2].chmod(0o2775)
    with pytest.raises(WrittenByOthers, match="others may write here"):
        read(pickled)


class Harm:
    """Would make a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_job_ends_with_one_line_and_executes_nothing(tmp_path: Path) -> None:
    run, harm = tmp_path / "runs" / "pack" / "p", tmp_path / "harm"
    (run / "log").mkdir(parents=True)
    (run / "log" / "7_submitted.pkl").write_bytes(pickle.dumps(Harm(harm)))
    (run / "log").chmod(0o777)
    environment = {
        **os.environ,
        **{"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7", "SUBMITIT_LOCAL_NTASKS": "1"},
        **{"SUBMITIT_LOCAL_JOB_NUM_NODES": "1", "SUBMITIT_LOCAL_NODEID": "0"},
        **{"SUBMITIT_LOCAL_LOCALID": "0", "SUBMITIT_LOCAL_GLOBALID": "0"},
    }
    command = [sys.executable, "-m", "hpcseg.jobs.start", str(run / "log")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and not harm.exists()
    assert found.stderr.splitlines()[-1].startswith(f"{run / 'log'}: others may write here")
    assert "Traceback" not in found.stderr
    failure = RunDir(run).failure()
    assert failure is not None and failure.cause == "input"
