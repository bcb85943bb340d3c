"""A folder of runs that two users share: neither makes the other execute code or lose a file, whatever he puts there.

Tried with processes of two users who are not root. The one owns runs, and calls hpcseg; the other does before that what
the folder's permissions let him do.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.host import is_alive, process_start
from hpcseg.study.plan import make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import record
from tests.planned import STUDY, run_here
from tests.two_users import ATTACKER, VICTIM, Answer, User, as_user, give, shared_place, tried

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to begin processes of two users")

Attack = Callable[["Scene"], None]
SECRET = "the victim's diary"
FEW = 1
MODULES = ("hpcseg", "torch", "submitit", "multiprocessing", "sitecustomize", "usercustomize", "conftest", "pickle")


class Harm:
    """A value that leaves a trace of whoever loads it from a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (f"{self.path}/{time.time_ns()}",)


@dataclass
class Scene:
    """Where it happens: everything that both see.

    Attributes:
        place: of all of it.
        runs: the victim's folder of runs.
        home: what the victim may not lose.
        harm: where whoever executes the attacker's code leaves a trace.
        process: one of the victim's that is none of hpcseg's jobs.
    """

    place: Path
    runs: Path
    home: Path
    harm: Path
    process: int

    @property
    def own(self) -> Path:
        """Files in the victim's home that are called as those of a run and a sweep."""
        return next((self.home / "train").iterdir())

    @property
    def files(self) -> list[Path]:
        """Files of all runs and sweeps."""
        return sorted(path for path in self.runs.rglob("*") if path.is_file() and not path.is_symlink())

    @property
    def run(self) -> Path:
        """The training run."""
        return next((self.runs / "train").iterdir())

    def payload(self) -> bytes:
        """A pickle that executes code."""
        return pickle.dumps(Harm(self.harm))

    def module(self) -> str:
        """A module that executes code."""
        return f"import os, time\nos.mkdir(f'{self.harm}/{{time.time_ns()}}')\nraise SystemExit(66)\n"

    def traces(self) -> list[Path]:
        """What the attacker's code left when the victim executed it."""
        return [path for path in self.harm.iterdir() if path.stat().st_uid == VICTIM]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with shared_place() as place:
        yield place


@pytest.fixture(scope="module")
def victim(place: Path) -> Iterator[User]:
    """The one who runs hpcseg."""
    try:
        user = User(VICTIM, place / "victim")
    except (RuntimeError, OSError) as error:
        pytest.skip(f"a second user cannot run hpcseg here: {error}")
    yield user
    user.close()


@pytest.fixture(scope="module")
def finished(place: Path, tiny_dataset: Path) -> Path:
    """A study of one pack and one training run, done; and the sweep file and data beside it."""
    folder = place / "finished"
    folder.mkdir()
    shutil.copytree(tiny_dataset, folder / "data" / "Tiny")
    (folder / "study.toml").write_text(STUDY)
    (folder / "one.toml").write_text("[local]\nslots = 1\nthreads = 1\npack_workers = 1\n")
    threads = torch.get_num_threads()
    plan = make_plan(read_sweep(folder / "study.toml"), folder / "data", folder / "runs")
    run_here(plan, plan.stages)
    record(plan)
    for run_id in plan.stages:
        log = plan.run(run_id).log
        log.mkdir(mode=0o700)
        (log / "7_0_log.out").write_text("said\n")
        (log / "7_submitted.pkl").write_bytes(pickle.dumps(1))
    torch.set_num_threads(threads)
    give(folder, VICTIM)
    return folder


@pytest.fixture
def scene(place: Path, finished: Path, victim: User) -> Iterator[Scene]:
    """A copy of the study in a folder that the group may write, as with umask 002, and a home beside it."""
    folder = place / "scene"
    shutil.copytree(finished, folder, symlinks=True)
    made = Scene(folder, folder / "runs", victim.home / "thesis", folder / "harm", victim.process)
    made.harm.mkdir()
    shutil.copytree(finished / "runs" / "train", made.home / "train")  # files of names that hpcseg writes
    names = [
        "main.csv",
        "runs.csv",
        "collection.json",
        "report.html",
        "sweep.json",
        "runs.json",
        "study.toml",
        "joined",
    ]
    for name in [*names, "lock", ".lock", "pool.log", "thesis.txt"]:
        (made.own / name).write_text(SECRET)
    give(folder, VICTIM)
    give(made.home, VICTIM)
    made.harm.chmod(0o777)
    os.umask(0o022)
    yield made
    shutil.rmtree(folder)
    shutil.rmtree(made.home)


def open_to_group(scene: Scene) -> None:
    """What a folder of a project looks like: mode 2775, and so is all in it but for the folders of pickles."""
    for path in (scene.place, scene.runs, *scene.runs.rglob("*")):
        if path.is_symlink():
            continue
        if path.name != "log" and path.parent.name != "log":
            path.chmod(0o2775 if path.is_dir() else 0o664)


def open_to_all(scene: Scene) -> None:
    """A folder of runs as /tmp is: everybody may write there, and nobody exchange what is another's."""
    scene.runs.chmod(0o1777)


def content_of(folder: Path) -> dict[str, Any]:
    """All that lies in a folder, but for times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        known = path.lstat()
        found[str(path.relative_to(folder))] = known.st_mode, known.st_ino, path.read_bytes() if path.is_file() else b""
    return found


# What the attacker does, each as far as it goes.


def links_for_files(scene: Scene) -> None:
    """Every file of the runs and sweeps is a link to one of the victim's of the same name."""
    for path in scene.files:
        with tried():
            path.unlink()
            path.symlink_to(scene.own / path.name)


def links_for_folders(scene: Scene) -> None:
    """Folders in which hpcseg writes are links into the victim's home."""
    for name in ("sweeps", "results", "slurm", "label", "sweeps/study", "results/study"):
        with tried():
            (scene.runs / name).symlink_to(scene.own)
    for path in (scene.run / "log", scene.run / "predictions", scene.runs / "sweeps" / "study"):
        with tried():
            path.rename(scene.runs / f"was-{path.name}")
            path.symlink_to(scene.own)


def links_for_runs(scene: Scene) -> None:
    """The folder of a run is a link to a run of the victim's that lies elsewhere."""
    run = scene.run
    with tried():
        run.rename(scene.runs / "was")
        run.symlink_to(scene.own)


def links_for_new_files(scene: Scene) -> None:
    """Where hpcseg will make a file, there is a link to one of the victim's, or a second name of it."""
    for folder in [scene.runs, *(path for path in scene.runs.rglob("*") if path.is_dir())]:
        for name in (
            ".lock",
            ".claim",
            "checkpoint.pt",
            "evaluation.jsonl",
            "error.json",
            ".store.parts",
            "8_0_log.out",
        ):
            with tried():
                (folder / name).symlink_to(scene.own / "thesis.txt")
        with tried():
            os.link(scene.own / "thesis.txt", folder / "kernels.json")


def folders_of_his(scene: Scene) -> None:
    """Folders that hpcseg will make are there, and everybody's; so is the lock."""
    with tried():
        (scene.runs / ".lock").touch(mode=0o600)
    for name in ("results", "results/study", "slurm", "pretrain", "sweeps/other"):
        with tried():
            (scene.runs / name).mkdir(mode=0o777)
            (scene.runs / name / "report.html").symlink_to(scene.own / "thesis.txt")


def pipe_for(name: str) -> Attack:
    """Whoever reads from a pipe waits for ever."""

    def attack(scene: Scene) -> None:
        for path in scene.files:
            if path.name == name:
                with tried():
                    path.unlink()
                    os.mkfifo(path, 0o666)

    return attack


def pickles(scene: Scene) -> None:
    """Models, checkpoints and stores are pickles that execute code."""
    for path in scene.files:
        if path.suffix in {".pt", ".h5"}:
            with tried():
                path.unlink()
                path.write_bytes(scene.payload())
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        with tried():
            (scene.run / name).write_bytes(scene.payload())
    with tried():
        (scene.run / "result.json").unlink()


def jobs(scene: Scene) -> None:
    """What submitit loads is exchanged, with the folder that it lies in or without."""
    for log in scene.runs.glob("*/*/log"):
        with tried():
            (log / "7_submitted.pkl").write_bytes(scene.payload())
        with tried():
            log.rename(log.with_name("was"))
            log.mkdir(mode=0o755)
            (log / "7_submitted.pkl").write_bytes(scene.payload())


def elsewhere(scene: Scene) -> None:
    """Records name files and processes elsewhere."""
    sweep, beat = scene.runs / "sweeps" / "study" / "sweep.json", scene.run / "heartbeat.json"
    with tried():
        record = json.loads(sweep.read_text()) | {"file": "/dev/zero", "title": "$\\input{/etc/passwd}$"}
        sweep.unlink()
        sweep.write_text(json.dumps(record))
    with tried():
        process = {"pid": scene.process, "pid_start": process_start(scene.process), "host": socket.gethostname()}
        value = json.loads(beat.read_text()) | process | {"state": "running"}
        beat.unlink()
        beat.write_text(json.dumps(value))
        (scene.run / "result.json").unlink()


PIPES: tuple[str, ...] = (
    "run.json",
    "job.json",
    "result.json",
    "heartbeat.json",
    "attempts.jsonl",
    "history.jsonl",
    "sweep.json",
)
PIPES += ("runs.json", "model.pt", "store.h5", "training.json", "done.json")
ATTACKS: dict[str, Attack] = {
    "links for folders": links_for_folders,
    "pickles": pickles,
    "folders of his": folders_of_his,
    "elsewhere": elsewhere,
    "links for files": links_for_files,
    "links for runs": links_for_runs,
    "links for new files": links_for_new_files,
    "jobs": jobs,
    **{f"a pipe for {name}": pipe_for(name) for name in PIPES},
}
SWEEP = ("sweep", "study.toml", "--on", "local", "--jobs", "one.toml", "--data", "data")
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("status",), ("cancel", "study"), ("collect", "--no-figures"), SWEEP, ("inspect", "MODEL")),
    *(("status", "--why", "baseline"), ("logs", "baseline"), ("retry", "baseline"), ("report",), ("inspect", "RUN")),
    *(
        ("inspect", "STORE"),
        (*SWEEP, "--plan"),
        ("rehearse", "baseline"),
        ("collect", "--to", "TO"),
        ("report", "--to", "TO"),
    ),
)


def called(victim: User, scene: Scene, *words: str) -> Answer:
    """Have the victim call hpcseg beside the runs, and look at how it ends."""
    pack = next((scene.runs / "pack").iterdir())
    places = {"RUN": scene.run, "MODEL": scene.run / "model.pt", "STORE": pack / "store.h5", "TO": victim.home / "to"}
    typed = [str(places[word]) if word in places else word for word in words]
    if words[0] != "inspect":
        typed += ["--runs", "runs"]
    answer = victim.call(scene.place, *typed)
    said = f"{typed}: {answer}"
    assert answer.code in {0, 1, 2}, said
    assert "Traceback" not in answer.out + answer.err, said
    if answer.code == 2:
        assert len([line for line in answer.err.splitlines() if line.startswith("error:")]) == 1, said
    return answer


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("folder", [open_to_group, open_to_all])
def test_neither_code_nor_a_file_is_at_the_others_mercy(
    folder: Attack, name: str, scene: Scene, victim: User, storm: Callable[[int, int], int]
) -> None:
    if list(ATTACKS).index(name) >= storm(FEW, len(ATTACKS)):
        pytest.skip("one of those that pytest --all tries")
    folder(scene)
    as_user(ATTACKER, lambda: ATTACKS[name](scene))
    before = content_of(scene.home)
    answers = {words: called(victim, scene, *words) for words in COMMANDS[: storm(4, len(COMMANDS))]}
    for log in scene.runs.glob("*/*/log"):
        if (log / "7_submitted.pkl").exists():
            assert victim.start_job(log, 7).code in {1, 2}
    assert not scene.traces()
    assert content_of(scene.home) == before
    assert all(SECRET not in answer.out for answer in answers.values())
    assert is_alive(scene.process, process_start(scene.process) or -1.0)
    if folder is open_to_group:
        assert answers["cancel", "study"].code == answers[SWEEP].code == answers["collect", "--no-figures"].code == 2


def test_jobs_find_no_modules_in_the_folder_where_they_are_begun(
    scene: Scene, victim: User, storm: Callable[[int, int], int]
) -> None:
    """The folder is another's, the runs are the victim's own; a scan is cut, so that no more than one job begins."""
    if not storm(0, 1):
        pytest.skip("one of those that pytest --all tries")
    scan = scene.place / "data" / "Tiny" / "imagesTr" / "case_001.nii.gz"
    scan.write_bytes(scan.read_bytes()[:-500])
    open_to_group(scene)

    def attack() -> None:
        for name in MODULES:
            (scene.place / f"{name}.py").write_text(scene.module())
        (scene.place / "jobs").mkdir()
        (scene.place / "jobs" / "slurm.toml").write_text(f"[slurm]\nsetup = ['mkdir {scene.harm}/setup']\n")

    as_user(ATTACKER, attack)
    answer = victim.call(scene.place, *SWEEP, "--runs", victim.home / "runs")
    assert answer.code == 2 and "case_001.nii.gz" in answer.err, answer
    assert not scene.traces()
    answer = victim.call(scene.place, "sweep", "study.toml", "--on", "slurm", "--data", "data", "--plan")
    assert answer.code == 2 and "jobs/slurm.toml: " in answer.err and "--jobs" in answer.err, answer


def test_a_store_in_a_folder_of_both_is_packed_again_and_nothing_else_written(
    scene: Scene, victim: User, storm: Callable[[int, int], int]
) -> None:
    if not storm(0, 1):
        pytest.skip("one of those that pytest --all tries")
    store, stores = victim.home / "store.h5", scene.place / "stores"
    stores.mkdir()
    stores.chmod(0o2777)
    shutil.copy(next((scene.runs / "pack").iterdir()) / "store.h5", stores)
    shutil.copy(stores / "store.h5", store)
    give(store, VICTIM)
    give(stores, VICTIM)
    pack = ("pack", "data/Tiny", "--spacing", "4", "--workers", "1", "--to")
    parts, shared = stores / ".store.parts", stores / "store.h5"

    def a_link() -> None:
        parts.symlink_to(scene.own)

    def a_folder_of_his() -> None:
        parts.unlink()
        parts.mkdir(0o777)

    def a_link_for_the_store() -> None:
        parts.rmdir()
        shared.unlink()
        shared.symlink_to(store)

    for attack in (a_link, a_folder_of_his, a_link_for_the_store):
        before = content_of(scene.home), store.read_bytes()
        as_user(ATTACKER, attack)
        answer = victim.call(scene.place, *pack, shared, "--force")
        assert answer.code == 2 and len(answer.err.splitlines()) == 1, answer
        assert (content_of(scene.home), store.read_bytes()) == before
    shared.unlink()
    assert victim.call(scene.place, *pack, shared).code == 0
