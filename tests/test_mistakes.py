"""Sixty ordinary mistakes: each answer is one line that names the thing, the place, and what to do or to call next."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.commandline import call

GOOD = """[run]
data.dataset = "Tiny"
data.foreground = [1, 2]
data.folds = 2
preprocessing.spacing = 2.0
[[grid]]
labelled = [2]
fold = [0]
"""
SPOILT = {  # a file -> what of GOOD stands there instead
    "key": ("data.folds", "data.fold"),
    "type": ("data.folds = 2", 'data.folds = "two"'),
    "range": ("labelled = [2]", "labelled = [0]"),
    "unit": ("spacing = 2.0", 'spacing = "2 mm"'),
    "broken": ("[run]", "[run"),
    "table": ("[[grid]]", "[[grids]]"),
    "list": ("data.folds = 2", "training.epochs = [1, 2]"),
    "strategy": ("fold = [0]", 'fold = [0]\nstrategy = ["basline"]'),
    "dataset": ('"Tiny"', '"Tinny"'),
    "label": ("[1, 2]", "[7]"),
    "many": ("labelled = [2]", "labelled = [99]"),
    "fold": ("fold = [0]", "fold = [5]"),
    "rows": ("fold = [0]", 'fold = [0]\n[[table]]\nname = "t"\nrows = "labeled"\ncolumns = "strategy"'),
    "splits": ("data.folds = 2", 'data.splits = "no.csv"'),
    "nosplits": ("data.folds = 2", "data.splits = 3"),
    "groups": ("data.folds = 2", 'data.folds = 2\ndata.groups = "name"'),
    "top": ("[run]", "[logging]\ntensorboard = true\n[run]"),
    "bare": ("[run]", 'strategy = "baseline"\n[run]'),
    "slurm": ("[run]", "[slurm]\npartition = 'x'\n[run]"),
    "phantoms": ('"Tiny"', '"Phantoms"'),
}
PROFILES = {
    "jkey": "[slurm]\npartitoin = 'x'\n",
    "jtime": "[slurm.train]\ntime = '2 days'\n",
    "jmemory": "[slurm.train]\nmemory = '32 Gigs'\n",
    "jslots": "[local]\nslots = 'many'\n",
}
IMAGE = "data/Tiny/imagesTs/case_007.nii.gz"
RUNS = "hpcseg status --runs runs"
MISTAKES = [  # what is typed; the thing, the place, what next
    ("swep demo", "No such command 'swep'", "hpcseg", "Did you mean 'sweep'"),
    ("sweep", "Missing argument 'FILE'", "hpcseg sweep", "hpcseg sweep -h"),
    ("sweep good.toml --stge x", "--stge", "hpcseg sweep", "--stage"),
    ("sweep good.toml --on cluster", "'cluster'", "--on", "'auto', 'local', 'slurm'"),
    ("sweep papr", "papr: no such file", "papr", "did you mean 'paper'?; name a file, or one of hpcseg sweeps: "),
    ("sweep nothere.toml", "no such file", "nothere.toml", "one of hpcseg sweeps: augmentation"),
    ("sweep data", "a folder, and no sweep file", "data:", "one of hpcseg sweeps"),
    ("sweep --copy nosuch my.toml", "no such file", "nosuch:", "one of hpcseg sweeps"),
    ("sweep --copy demo good.toml", "exists", "good.toml:", "hpcseg sweep --copy demo FILE"),
    ("sweeps nosuch", "no such file", "nosuch:", "one of hpcseg sweeps"),
    ("sweep key.toml", "unknown key 'data.fold'", "key.toml:4", "did you mean 'data.folds'? (hpcseg keys)"),
    ("sweep type.toml", "data.folds = 'two'", "type.toml:4", "a whole number (hpcseg keys data.folds)"),
    ("sweep range.toml", "labelled = 0", "range.toml:7", "(hpcseg keys labelled)"),
    ("sweep unit.toml", "preprocessing.spacing = '2 mm'", "unit.toml:5", "(hpcseg keys preprocessing.spacing)"),
    ("sweep broken.toml", "not valid TOML", "broken.toml:1", "Expected ']'"),
    ("sweep table.toml", "unknown table 'grids'", "table.toml:6", "did you mean 'grid'? (hpcseg keys)"),
    ("sweep list.toml", "training.epochs = [1, 2]", "list.toml:4", "lists belong in [[grid]] (hpcseg keys"),
    ("sweep strategy.toml", "strategy = 'basline'", "strategy.toml:9", "did you mean 'baseline'?"),
    ("sweep dataset.toml", "no dataset 'Tinny'", "/data", "there are: Tiny); correct --data or --set data.dataset"),
    ("sweep label.toml", "7 is no foreground label", "Tiny/dataset.json", "1 ball, 2 core); correct it"),
    ("sweep many.toml", "labelled = 99", "many.toml", "change it or use 'all'"),
    ("sweep fold.toml", "fold 5 does not exist", "fold.toml:8", "folds 0 to 1; change either"),
    ("sweep rows.toml", "rows = 'labeled'", "rows.toml:11", "did you mean 'labelled'?"),
    ("sweep splits.toml", "data.splits = 'no.csv'", "data/Tiny", "correct it"),
    ("sweep groups.toml", "data.groups = 'name'", "data/Tiny/name", "did you mean 'names'?"),
    ("sweep top.toml", "'logging' is part of a run", "top.toml:1", "write [run.logging], or logging.KEY"),
    ("sweep bare.toml", "'strategy' stands in no table", "bare.toml:1", "write it below [run]"),
    ("sweep slurm.toml", "'slurm' belongs in a job profile", "slurm.toml:1", "--jobs FILE"),
    ("sweep phantoms.toml", "no dataset 'Phantoms'", "/data:", "/data/Phantoms makes it"),
    ("sweep demo --data nowhere", "no such folder", "/nowhere", "; hpcseg phantom "),
    ("sweep --copy nosplits.toml my.toml", "data.splits = 3", "nosplits.toml:4", "hpcseg keys data.splits"),
    ("sweep good.toml --jobs good.toml", "is a sweep file", "good.toml:", "hpcseg sweep good.toml"),
    ("sweep good.toml --data nowhere", "no such folder", "/nowhere", "--data"),
    ("sweep good.toml --data empty", "no dataset 'Tiny'", "/empty", "correct --data or --set data.dataset=NAME"),
    ("sweep good.toml --set labelled", "labelled", "labelled:", "write key=value, for instance labelled=4"),
    ("sweep good.toml --set labeled=2", "unknown key 'labeled'", "labeled=2:", "did you mean 'labelled'?"),
    ("sweep good.toml --set training.epochs=many", "'many'", "training.epochs=many", "hpcseg keys training.epochs"),
    ("sweep good.toml --set training.epochs=0", "= 0 is not", "training.epochs=0:", "hpcseg keys training.epochs"),
    ("sweep good.toml --set labelled=", "labelled = ''", "labelled=:", "hpcseg keys labelled"),
    ("sweep good.toml --set fold=[]", "the list is empty", "fold=[]:", "write fold=VALUE or"),
    ("sweep good.toml --on slurm", "there is no Slurm here", "scontrol", "leave out --on slurm, or log in"),
    ("sweep good.toml --jobs nosuch", "no such job profile", "nosuch:", "one of hpcseg's own: gpu, local, slurm"),
    ("sweep good.toml --jobs jkey.toml", "'slurm.partitoin'", "jkey.toml:2", "did you mean 'slurm.partition'?"),
    ("sweep good.toml --jobs jtime.toml", "'2 days'", "jtime.toml:2", "hpcseg keys slurm"),
    ("sweep good.toml --jobs jmemory.toml", "'32 Gigs'", "jmemory.toml:2", 'such as "32G"'),
    ("sweep good.toml --jobs jslots.toml", "'many'", "jslots.toml:2", "hpcseg keys local"),
    ("train good.toml --set labelled=[1,2]", "has 2 training runs", "good.toml", "leave one with --grid and --set"),
    ("train good.toml --grid recipe", "no such grid", "good.toml", "it has: grid1"),
    ("train made --set fold=1", "a run's keys stand", "made:", "are for a sweep file"),
    ("train pack/made", "a run of the stage pack", "pack/made:", "hpcseg sweep FILE makes what its trainings need"),
    ("train nosuch", "no such file", "nosuch:", "one of hpcseg sweeps"),
    ("phantom data/Tiny", "already holds something", "data/Tiny:", "give a new or empty folder"),
    ("phantom new --training 0", "at least 1 training case", "new:", "--training 1"),
    ("phantom new --size 2", "too coarse", "new:", "--size 24"),
    ("pack data --to s.h5", "has no dataset.json", "data:", "give one of them: data/Tiny"),
    ("pack nowhere --to s.h5", "no such folder", "nowhere:", "hpcseg inspect . says"),
    ("pack data/Tiny --to s.h5 --spacing abc", "'abc'", "preprocessing.spacing", "'median' or a number or a list"),
    ("pack data/Tiny --to s.h5 --spacing 1,2", "[1, 2]", "preprocessing.spacing", "a list of 3 or more"),
    ("pack data/Tiny --to s.h5 --foreground 9", "9 is no foreground label", "Tiny/dataset.json", "1 ball, 2 core"),
    ("pack data/Tiny --to s.h5 --codec zip", "'zip'", "preprocessing.codec", "'none' or 'bitshuffle-lz4'"),
    ("pack data/Tiny --to notes.txt", "no store of hpcseg", "notes.txt:", "give another name"),
    ("pack data/Tiny", "Missing option '--to'", "hpcseg pack", "hpcseg pack -h"),
    ("inspect nowhere", "no such file or folder, and as a run", "nowhere:", RUNS),
    ("inspect no/where", "no such file or folder", "no/where:", "give a dataset's folder"),
    ("inspect empty", "no dataset.json", "empty:", "hpcseg init"),
    ("inspect notes.txt", "a text file", "notes.txt:", "give a scan (.nii.gz)"),
    ("inspect good.toml", "a TOML file", "good.toml:", "hpcseg sweep FILE --plan"),
    ("inspect data/Tiny --label x.nii.gz", "--label x.nii.gz", "data/Tiny", "leave it out"),
    ("init nowhere", "no such folder", "nowhere:", "give one with scans in it"),
    ("init empty", "no NIfTI scan", "/empty:", "convert scans, as with dcm2niix"),
    ("init data/Tiny --to good.toml", "exists", "good.toml:", "--to, or --force"),
    ("keys learning_rte", "no key matches", "'learning_rte'", "near: training.learning_rate"),
    ("status", "no sweep was applied here", "runs:", "hpcseg sweep FILE"),
    ("status nosuch", "no sweep 'nosuch'", "runs:", "hpcseg sweep FILE"),
    ("logs nosuch", "no run or sweep", "'nosuch'", RUNS),
    ("watch nosuch", "no run or sweep", "'nosuch'", RUNS),
    ("cancel ''", "matches every run", "''", "write '*' if all are meant"),
    ("retry 'base*'", "no run or sweep", "'base*'", RUNS),
    ("rehearse nosuch", "no run or sweep", "'nosuch'", RUNS),
    ("collect --records new --json", "writes no tables", "--records", "leave --to and --json out"),
    ("status --watch --json", "prints once", "--watch", "leave one of them out"),
    ("collect", "no sweep has been applied", "runs:", "hpcseg sweep FILE"),
    ("collect --against nosuch", "No such file", "--against nosuch", "name 'paper', a TOML file"),
    (f"segment {IMAGE} --to masks", "no model before it", IMAGE, "give a run directory or a model.pt first"),
    (f"segment nosuch {IMAGE} --to masks", "no such file or folder, and as a run", "nosuch:", RUNS),
    (f"segment no/such.pt {IMAGE} --to masks", "no trained model", "no/such.pt:", "hpcseg status"),
    (f"segment broken.pt {IMAGE} --to notes.txt", "is a file", "'notes.txt'", "hpcseg segment -h"),
    ("phantom notes.txt", "is a file", "'notes.txt'", "hpcseg phantom -h"),
    ("pack data/Tiny --to empty", "is a directory", "'empty'", "hpcseg pack -h"),
    ("inspect data/Tiny --png notes.txt", "is a file", "'notes.txt'", "hpcseg inspect -h"),
    ("init data/Tiny --to empty", "is a directory", "'empty'", "hpcseg init -h"),
    ("collect --to notes.txt", "is a file", "'notes.txt'", "hpcseg collect -h"),
    ("collect --records notes.txt", "is a file", "'notes.txt'", "hpcseg collect -h"),
    ("status --runs notes.txt", "is a file", "'notes.txt'", "hpcseg status -h"),
    ("sweep good.toml --data notes.txt", "is a file", "'notes.txt'", "hpcseg sweep -h"),
    ("sweep good.toml --grid recipe", "no such grid", "good.toml", "it has: grid1"),
    ("segment broken.pt data/Tiny --to masks", "lie deeper", "data/Tiny:", "'data/Tiny/*/*.nii*'"),
    (f"segment broken.pt {IMAGE} --to masks", "not a file of hpcseg", "broken.pt:", "give a model.pt"),
    ("segment broken.pt 'no/*.nii.gz' --to masks", "no NIfTI scan matches", "no/*.nii.gz:", "correct it"),
    (f"segment broken.pt {IMAGE} --to done", "exists", "done/case_007.nii.gz:", "--force to replace it, or --skip"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    """A working folder with a sound study, and with files that hold one mistake each."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name in ("empty", "done", "made", "pack/made"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(tiny_dataset, folder / "data" / "Tiny")
    (folder / "good.toml").write_text(GOOD)
    for name, (old, new) in SPOILT.items():
        assert old in GOOD
        (folder / f"{name}.toml").write_text(GOOD.replace(old, new, 1))
    for name, text in PROFILES.items():
        (folder / f"{name}.toml").write_text(text)
    for name in (
        "notes.txt",
        "broken.pt",
        "empty/x.txt",
        "done/case_007.nii.gz",
        "made/run.json",
        "pack/made/run.json",
    ):
        (folder / name).write_text("words")
    return folder


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def test_there_are_sixty_of_them() -> None:
    assert len({typed for typed, *_ in MISTAKES}) == len(MISTAKES) >= 60


@pytest.mark.parametrize(("typed", "thing", "place", "after"), MISTAKES, ids=[typed for typed, *_ in MISTAKES])
def test_the_answer_names_the_thing_the_place_and_what_next(
    folder: Path, typed: str, thing: str, place: str, after: str
) -> None:
    done = call(folder, *shlex.split(typed))
    assert done.returncode == (1 if "--on slurm" in typed else 2), done.stdout + done.stderr
    assert len([line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]) == 1
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert [words for words in (thing, place, after) if words not in done.stderr] == [], done.stderr
    assert not (folder / "runs").exists() and not (folder / "s.h5").exists()


def test_where_nothing_may_be_written_the_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (locked := folder / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.W_OK)  # root may write everywhere
    done = call(folder, "sweep", "good.toml", "--on", "local", "--runs", locked)
    assert done.returncode == 2 and f"{locked}: cannot be written in by this user; use a folder" in done.stderr
