"""What was made from another run's network is made anew when that network is another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.heartbeat import Heartbeat
from hpcseg.paths import PARENTS_FILE
from hpcseg.runs.parents import fingerprint, note_parents, read_parents
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states

MODEL = Path("train/teacher/model.pt")
STORE = Path("label/labels/store.h5")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A finished run: its product begins with a digest."""

    def make(file: Path, digest: str = "a", *names: str) -> Path:
        run = tmp_path / file.parent
        run.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(digest + "\n" + "x" * 1000)
        for name in ("done.json", "result.json", "model.pt", *names):
            if not (run / name).exists():
                (run / name).write_text(json.dumps({"id": run.name, "sets": {}}))
        (run / "run.json").write_text("{}")
        beat = Heartbeat("done", "label", 1, 1, 0, None, None, 1.0, "host", 1, 1.0, 1)
        (run / "heartbeat.json").write_text(json.dumps(vars(beat)))
        return run

    return make


def test_each_result_is_judged_once_however_many_runs_were_made_from_it(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write(MODEL), write(STORE), *(write(Path(f"train/student{n}/model.pt")) for n in range(3))]
    note_parents(runs[1], [MODEL])
    for student in runs[2:]:
        assert not note_parents(student, [STORE, MODEL]), "nothing was there to be removed"
    judged: list[str] = []

    def judge(_run: Path, name: str) -> str:
        judged.append(name)
        return ""

    monkeypatch.setattr("hpcseg.runs.rundir.why_unusable", judge)
    states = read_states([RunDir(path) for path in runs])
    assert {verdict.state for verdict in states.verdicts.values()} == {"done"}
    assert sorted(judged) == ["student0", "student1", "student2", "teacher"]


def test_a_finished_run_is_not_done_once_who_taught_it_is_not_who_it_was(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    teacher, labels, student = write(MODEL), write(STORE), write(Path("train/student/model.pt"))
    note_parents(labels, [MODEL])
    note_parents(student, [STORE, MODEL])
    runs = [RunDir(path) for path in (teacher, labels, student)]

    def states() -> list[str]:
        return [verdict.state for verdict in read_states(runs).verdicts.values()]

    assert states() == ["done"] * 3 and all(run.is_done() for run in runs)
    (teacher / "result.json").unlink()  # measured again, of the same weights
    assert states()[1:] == ["lost", "lost"]
    why = "was made from teacher, which is not done; the same hpcseg sweep does it again"
    assert read_states(runs).verdicts["labels"].why == why
    write(MODEL)
    assert states() == ["done"] * 3
    write(MODEL, "b")  # trained anew
    assert states() == ["done", "lost", "lost"] and not runs[2].is_done()
    note_parents(labels, [MODEL])
    write(STORE, "of b")
    assert states() == ["done", "done", "lost"]


def test_what_was_made_from_other_files_is_removed_before_it_is_made_anew(write: Callable[..., Path]) -> None:
    teacher, run = write(MODEL), write(STORE, "a", "checkpoint.pt", "error.json", "job.json", "attempts.jsonl", ".lock")
    (run / "predictions").mkdir()
    (run / ".store.parts").mkdir()
    (run / ".store.parts" / "0").write_text("of the former model")
    everything = {path.name for path in run.iterdir()}
    note_parents(run, [MODEL])  # a run of an earlier version did not say what it was made from
    assert read_parents(run) == {MODEL.as_posix(): fingerprint(teacher / "model.pt")}
    note_parents(run, [MODEL])
    assert {path.name for path in run.iterdir()} == {*everything, PARENTS_FILE}
    write(MODEL, "b")
    note_parents(run, [MODEL])
    kept = {"run.json", "job.json", "heartbeat.json", "attempts.jsonl", "error.json", ".lock", PARENTS_FILE}
    assert {path.name for path in run.iterdir()} == kept
    note_parents(teacher, [])
    assert not (teacher / PARENTS_FILE).exists() and fingerprint(teacher / "absent") is None


@pytest.mark.parametrize("value", [True, "x", [], 7, {"a": {}}, {"a": [1]}, {"../a": "0"}, {"/a": "0"}, {"a\0b": "0"}])
def test_what_names_no_parents_is_one_line(tmp_path: Path, value: object) -> None:
    (tmp_path / PARENTS_FILE).write_text(json.dumps(value))
    with pytest.raises(BadInput, match=r"parents\.json: .*remove the file"):
        read_parents(tmp_path)
