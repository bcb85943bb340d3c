"""Synthetic sweeps on disk: sweep.json and result.json files as the planner and the jobs leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Scores = dict[str, list[dict[str, Any]]]


class SweepFiles:
    """Writes one sweep below `root`; a run is shared by all grids that name its axes."""

    def __init__(self, root: Path, name: str = "study", applied: str = "2026-01-01T10:00:00+00:00") -> None:
        self.root = root
        self.record: dict[str, Any] = {"name": name, "file": f"{name}.toml", "applied": applied}
        self.record |= {"tables": [], "figures": [], "runs": [], "stages": {}}

    def run(self, scores: Scores | None, *, grids: str | list[str] = "main", **axes: Any) -> str:
        """Add a run with these axes; `scores` None leaves it without a result."""
        run = "-".join(str(value) for value in axes.values()).replace("/", "_")
        cells = [{"grid": grid, "axes": axes} for grid in ([grids] if isinstance(grids, str) else grids)]
        config = {"strategy": "baseline", "labelled": "all", "fold": 0, "network": {"kernel": 5}} | axes
        self.record["runs"].append({"id": run, "stage": "train", "config": config, "cells": cells, "needs": []})
        if scores is not None:
            self.write(
                run, {"id": run, "sets": scores, "gpu_hours": 0.5, "code": {"version": "0.1.0", "commit": "abc"}}
            )
        return run

    def write(self, run: str, result: Any) -> Path:
        path = self.root / "train" / run / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result if isinstance(result, str) else json.dumps(result))
        return path

    def save(self) -> Path:
        folder = self.root / "sweeps" / self.record["name"]
        folder.mkdir(parents=True, exist_ok=True)
        runs = [
            {"id": run["id"], "differs": nested(run["config"]), "cells": run["cells"]} for run in self.record["runs"]
        ]
        (folder / "runs.json").write_text(json.dumps({"base": {}, "runs": runs}))
        (folder / "sweep.json").write_text(json.dumps({k: v for k, v in self.record.items() if k != "runs"}))
        return self.root


def nested(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose dotted keys stand in their sections."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        section, _, name = key.rpartition(".")
        found |= {section: found.get(section, {}) | {name: value}} if section else {key: value}
    return found


@pytest.fixture
def sweep_files(tmp_path: Path) -> Callable[..., SweepFiles]:
    """Makes writers of sweeps below tmp_path/runs."""
    return lambda **options: SweepFiles(tmp_path / "runs", **options)


@pytest.fixture(scope="session")
def as_scores() -> Callable[..., Scores]:
    """Turns DSCs of set=[case 0, case 1, ...] into the sets of a result; a case may be a list of its classes' DSCs."""

    def convert(**sets: list[Any]) -> Scores:
        return {
            name: [
                {"case": f"{name}{number}", "class": class_, "dsc": dsc}
                for number, case in enumerate(cases)
                for class_, dsc in enumerate(case if isinstance(case, list) else [case], start=1)
            ]
            for name, cases in sets.items()
        }

    return convert
