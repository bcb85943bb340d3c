"""Under which circumstances a sweep's results came about: configuration, data, code and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.config import key_groups
from hpcseg.errors import BadInput
from hpcseg.paths import STORE_FILE
from hpcseg.results.collection import Collection, Result, Run
from hpcseg.runs.applied import read_sweep_record
from hpcseg.runs.rundir import RunDir
from hpcseg.sections import flatten, toml_text

SPLIT_KEYS = ("dataset", "test", "splits", "split_seed", "folds", "groups")


@dataclass(frozen=True)
class Setting:
    """A key of the configuration: its values with the number of runs that have each, and its default."""

    key: str
    values: tuple[tuple[str, int], ...]
    default: str

    @property
    def varies(self) -> bool:
        """Whether runs differ in it."""
        return len(self.values) > 1

    @property
    def changed(self) -> bool:
        """Whether any run has another value than the default."""
        return any(value != self.default for value, _ in self.values)


@dataclass(frozen=True)
class Split:
    """How many volumes the runs of one fold and number of labelled ones have, and which."""

    fold: str
    labelled: int
    validation: int
    test: int
    cases: tuple[str, ...]  # names of the labelled ones
    validation_cases: tuple[str, ...]


@dataclass(frozen=True)
class Store:
    """A packed dataset; `megabytes` is None while it is not packed."""

    dataset: str
    cases: int
    labelled: int
    spacing: str  # mm, z × y × x
    classes: str
    megabytes: float | None


@dataclass(frozen=True)
class Data:
    """Stores and splits of a sweep, and the test scans."""

    stores: tuple[Store, ...]
    splits: tuple[Split, ...]
    test_cases: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def validation(self) -> dict[str, tuple[str, ...]]:
        """Names of the validation volumes by fold."""
        return {split.fold: split.validation_cases for split in self.splits}


def settings(configs: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Every key of the configurations in the order of the sections. Pure."""
    defaults = {key.name: key.default for group in key_groups() for key in group.keys}
    counts: dict[str, Counter[str]] = {}
    parts = [(name, part) for config in configs for name, part in config.items()]
    alike = Counter((name, id(part)) for name, part in parts)  # thousands of runs share their sections
    different = {(name, id(part)): part for name, part in parts}
    for (name, known), runs in alike.items():
        for key, value in flatten({name: different[name, known]}).items():
            counts.setdefault(key, Counter())[toml_text(value)] += runs
    return [
        Setting(key, tuple(found.items()), toml_text(defaults[key]) if key in defaults else "")
        for key, found in counts.items()
    ]


def read_data(collection: Collection) -> Data:
    """Stores, splits and scans, from the `run.json` of the packs and of one training run of each kind."""
    record = read_sweep_record(collection.root, collection.sweep)
    problems: list[str] = []

    def read(stage: str, run_id: str) -> Mapping[str, Any]:
        try:
            return RunDir.of(collection.root, stage, run_id).spec().model_dump(mode="json")
        except BadInput as error:
            problems.append(str(error))
            return {}

    packs = {run_id: read("pack", run_id) for run_id in (record.get("stages") or {}).get("pack", ())}
    folder = collection.root / "pack"
    stores = [_store(folder / run_id / STORE_FILE, found) for run_id, found in packs.items() if found]
    splits: dict[tuple[str, int], Split] = {}
    test: dict[str, None] = {}
    told = _told_apart(collection.runs)
    for run in _one_of_each(collection.runs):
        recorded = run.result is not None and bool(run.result.labelled_cases)
        found = _of_record(run.result) if run.result and recorded else read("train", run.id)
        if not found:
            continue
        split = _split(run, found, told)
        splits.setdefault((split.fold, split.labelled), split)
        test |= dict.fromkeys(str(scan["name"]) for scan in found.get("test_scans", ()))
    ordered = tuple(sorted(splits.values(), key=lambda split: (split.fold, split.labelled)))
    return Data(tuple(stores), ordered, tuple(test), tuple(problems))


def environments(collection: Collection) -> list[dict[str, str]]:
    """Code and machine behind the results, each different one once with the number of its runs, most runs first."""
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for run in collection.runs:
        if run.result is None:
            continue
        code, hardware = run.result.code, run.result.hardware
        known = {
            "hpcseg": run.result.version,
            "torch": str(code.get("torch", "")),
            "Python": str(code.get("python", "")),
            "Device": str(hardware.get("device", "")),
            "Ranks": str(hardware.get("ranks", "")),
            "Threads": str(hardware.get("threads", "")),
            "Host": str(hardware.get("host", "")),
        }
        counts[tuple(known.items())] += 1
    return [dict(known) | {"Runs": str(count)} for known, count in counts.most_common()]


def _one_of_each(runs: Iterable[Run]) -> list[Run]:
    """One run of each dataset, fold and number of labelled volumes: the others have the same volumes."""
    chosen: dict[str, Run] = {}
    for run in runs:
        chosen.setdefault(run.volumes, run)
    return list(chosen.values())


def _of_record(result: Result) -> Mapping[str, Any]:
    """What run.json would say of the cases."""
    scans = {
        f"{name}_scans": [{"name": case} for case in dict.fromkeys(scores.cases)]
        for name, scores in result.sets.items()
    }
    return {"labelled": {"cases": result.labelled_cases}, **scans}


def _data(run: Run, key: str) -> str:
    data = run.config.get("data")
    return str(data.get(key, "")) if isinstance(data, Mapping) else ""


def _told_apart(runs: Sequence[Run]) -> list[str]:
    """Keys of `data` in which runs differ, of those on which splits and test sets hang."""
    return [key for key in SPLIT_KEYS if len({_data(run, key) for run in runs}) > 1]


def _split(run: Run, found: Mapping[str, Any], told: Sequence[str]) -> Split:
    """The split of a run; its fold says of which dataset, seed, …, where runs differ in these keys."""
    values = [_data(run, key) if key == "dataset" else f"data.{key} {_data(run, key) or '–'}" for key in told]
    fold = str(run.config.get("fold", "")) + (f" of {', '.join(values)}" if values else "")
    labelled = tuple(map(str, found.get("labelled", {}).get("cases", ())))
    validation = tuple(str(scan["name"]) for scan in found.get("validation_scans", ()))
    tests = len(found.get("test_scans", ()))
    return Split(fold, len(labelled), len(validation), tests, labelled, validation)


def _store(path: Path, found: Mapping[str, Any]) -> Store:
    cases = found.get("cases", ())
    groups = found.get("classes") or ()
    return Store(
        dataset=str(found.get("dataset", "")),
        cases=len(cases),
        labelled=sum(case.get("label") is not None for case in cases),
        spacing=" × ".join(f"{mm:g}" for mm in found.get("spacing_zyx", ())),
        classes="; ".join(" + ".join(map(str, values)) for values in groups) or "every label but 0",
        megabytes=path.stat().st_size / 1e6 if path.exists() else None,
    )
