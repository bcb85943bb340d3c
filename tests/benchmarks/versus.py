"""`python -m tests.benchmarks.versus`: hpcseg and nnU-Net v2 on the same labelled cases for the same minutes.

    nnunet   train nnU-Net for some minutes, segment the test cases, measure them        (in .venv-peers)
    hpcseg   the same cases by some grids of a sweep, one run at a time on all cores
    table    what was measured, as docs/study/tables/nnunet.md

Which cases are labelled, and which are the test set, hpcseg's own plan of the sweep says; masks of both are measured by
hpcseg's metric on the scans' own grid, against the sweep's classes. Each leaves a small file in docs/study/nnunet/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hpcseg.files import make_folder, read_json, write_text
from hpcseg.host import usable_cores
from hpcseg.inference.metrics import DSC
from hpcseg.results.archive import portable
from hpcseg.results.tables.cells import Cell, Replicate, contrast_cells
from hpcseg.spec import CaseRef, PackSpec, TrainSpec
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from tests.benchmarks.hardware import describe, package_version

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "docs" / "study"
NNUNET = "nnU-Net"
NOTES = (
    "DSC: mean ± SD over the cases of all folds. Differences: paired by fold and case, [95 % bootstrap interval, cases",
    "drawn]. Minutes: of training with all that it needs (teachers, pseudo-labels), alone on the machine's cores.",
)
Measured = dict[str, Any]  # as it is written


def main(arguments: list[str]) -> int:
    """Measure and write."""
    given = _parser().parse_args(arguments)
    if given.what == "table":
        write_text(given.table, table([read_json(path) for path in sorted(given.to.glob("*.json"))]))
        print(given.table)
        return 0
    make_folder(given.to)
    measured = measure_nnunet(given) if given.what == "nnunet" else measure_hpcseg(given)
    for one in measured:
        name = "-".join(str(part) for part in (one["tool"], f"n{given.labelled}", f"f{given.fold}"))
        name += f"-{given.minutes:g}min" if given.what == "nnunet" else ""
        write_text(given.to / f"{name.replace(' ', '-')}.json", as_lines(one))
        defined = [value for value in one["dsc"].values() if value is not None]
        print(
            f"{one['tool']}, n = {given.labelled}, fold {given.fold}: DSC {fmean(defined):.4f} of "
            f"{len(one['dsc'])} cases after {one['train_seconds'] / 60:.1f} min ({one['steps']} steps); segmented in "
            f"{one['prediction_seconds']:.0f} s"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.versus", description=__doc__)
    parser.add_argument("what", choices=("nnunet", "hpcseg", "table"))
    parser.add_argument("--labelled", default="4", help="labelled cases of the fold")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0, help="of nnU-Net's training")
    parser.add_argument("--sweep", type=Path, default=ROOT / "sweeps" / "hippocampus.toml")
    parser.add_argument("--grids", nargs="+", default=["recipe", "self-training"], help="of the sweep, for hpcseg")
    parser.add_argument("--set", action="append", default=[], help="key=value, as of hpcseg sweep; repeatable")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "versus", help="links, runs, weights, masks")
    parser.add_argument("--to", type=Path, default=STUDY / "nnunet", help="folder of what was measured")
    parser.add_argument("--table", type=Path, default=STUDY / "tables" / "nnunet.md")
    return parser


def plan_of(given: argparse.Namespace, grids: Sequence[str]) -> Plan:
    """hpcseg's plan of some grids of the sweep at this n and fold."""
    sweep = read_sweep(given.sweep, [f"labelled={given.labelled}", f"fold={given.fold}", *given.set], grids)
    heading = sweep.heading.model_copy(update={"name": "versus"})
    plan = make_plan(replace(sweep, heading=heading, tables=(), figures=()), given.data, given.work / "runs")
    if not all(getattr(planned.spec, "test_scans", ()) for planned in plan.of_stage("train").values()):
        raise SystemExit(f"{given.sweep}: sets no labelled test cases aside, on which both could be measured")
    return plan


def measure_nnunet(given: argparse.Namespace) -> list[Measured]:
    """One training of nnU-Net on the labelled cases of hpcseg's run."""
    from tests.benchmarks import nnunet

    plan = plan_of(given, given.grids[:1])
    (spec,) = (planned.spec for planned in plan.of_stage("train").values())
    assert isinstance(spec, TrainSpec)
    done = nnunet.run(spec, labelled_cases(plan, spec), given.minutes, given.work / "nnunet")
    one: Measured = {
        "tool": NNUNET,
        "version": package_version("nnunetv2"),
        "minutes": given.minutes,
        "plan": dict(done.plan),
        "steps": done.iterations,
        "preparing_seconds": round(done.preparing_seconds, 1),
        "train_seconds": round(done.train_seconds, 1),
        "prediction_seconds": round(done.prediction_seconds, 1),
    }
    return [
        one | _circumstances(given, spec) | {"dsc": {s.name: dsc(done.masks[s.name], s, spec) for s in spec.test_scans}}
    ]


def measure_hpcseg(given: argparse.Namespace) -> list[Measured]:
    """Some grids of the sweep, one run after another with all cores; what a run needed counts as its own time."""
    from hpcseg.results.collect import collect
    from hpcseg.submit.apply import apply
    from hpcseg.submit.profile import LocalProfile, Profile

    plan = plan_of(given, given.grids)
    profile = Profile(local=LocalProfile(slots=1, threads=usable_cores()))
    outcome = apply(plan, "local", profile)
    if outcome.failed:
        raise SystemExit(f"failed: {', '.join(outcome.failed)} (hpcseg logs RUN --runs {plan.runs_root})")
    found = []
    for run in collect(plan.runs_root, "versus").runs:
        if not run.places or run.result is None:
            continue  # a teacher of no grid
        spec = plan.stages[run.id].spec
        assert isinstance(spec, TrainSpec)
        one: Measured = {
            "tool": f"hpcseg {run.places[0].grid}",
            "version": run.result.version,
            "steps": run.result.training["steps"],
            "train_seconds": run.seconds,
            "prediction_seconds": round(_prediction_seconds(run.folder, spec), 1),
        }
        scores, _ = run.result.sets["test"].by_case(DSC)
        found.append(one | _circumstances(given, spec) | {"dsc": scores})
    return found


def labelled_cases(plan: Plan, spec: TrainSpec) -> list[CaseRef]:
    """The scans that a run learns from, by the plan's packs."""
    packs = [planned.spec for planned in plan.of_stage("pack").values()]
    scans = {case.name: case for pack in packs if isinstance(pack, PackSpec) for case in pack.cases}
    return [scans[name] for name in spec.labelled.cases]


def dsc(mask: Path, scan: CaseRef, spec: TrainSpec) -> float | None:
    """Of a mask of class numbers on the scan's grid, mean over classes; None where none exists."""
    from hpcseg.inference.metrics import measure
    from hpcseg.volumes.preprocess import merge_labels
    from hpcseg.volumes.scans import read_grid, read_label

    assert scan.label is not None
    grid, classes = read_grid(scan.image), spec.classes_in("test")
    reference_zyx = merge_labels(read_label(scan.label, grid), classes)
    found = measure(read_label(mask, grid), reference_zyx, max(len(classes), 1), grid.spacing_zyx, 1.0)
    defined = [value for one in found if (value := one[DSC.key]) is not None]
    return fmean(defined) if defined else None


def _prediction_seconds(run: Path, spec: TrainSpec) -> float:
    """Seconds in which all test scans are segmented."""
    import torch

    from hpcseg.inference.segment import Segmenter
    from hpcseg.paths import MODEL_FILE
    from hpcseg.training.model import TrainedModel

    torch.set_num_threads(usable_cores())
    begin = time.monotonic()
    segmenter = Segmenter(TrainedModel.load(run / MODEL_FILE))
    for scan in spec.test_scans:
        segmenter.segment(scan.image)
    return time.monotonic() - begin


def _circumstances(given: argparse.Namespace, spec: TrainSpec) -> Measured:
    return {
        "sweep": given.sweep.name,
        "set": given.set,
        "labelled": spec.config.labelled,
        "fold": spec.config.fold,
        "labelled_cases": list(spec.labelled.cases),
        "hardware": describe(),
    }


def as_lines(measured: Measured) -> str:
    """JSON with a key, or a case, in a line, without the machine's paths."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items()) + "\n }"
        return json.dumps(value)

    lines = ",\n".join(f" {json.dumps(key)}: {text(value)}" for key, value in measured.items())
    return portable("{\n" + lines + "\n}\n")


def table(measured: Iterable[Measured]) -> str:
    """Markdown: a line for each n, tool and length, pooled over folds, with the difference from each nnU-Net. Pure."""
    groups: dict[tuple[Any, str, float], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one["labelled"], one["tool"], one.get("minutes", 0.0)), []).append(one)
    keys = sorted(groups, key=lambda key: (str(key[0]).zfill(4), key[1] != NNUNET, key[2], key[1]))
    lengths = sorted({minutes for _, tool, minutes in keys if tool == NNUNET})
    cells = {key: _cell(groups[key]) for key in keys}
    heads = ["n", "tool", "minutes", "steps", "DSC", "scores", "least", "seconds for the test cases"]
    heads += [f"− {NNUNET} {minutes:g} min" for minutes in lengths]
    rows = [heads, ["--:", ":--", *["--:"] * (len(heads) - 2)]]
    for key in keys:
        n, tool, _ = key
        differences = [
            "" if tool == NNUNET else _difference(cells[key], cells.get((n, NNUNET, minutes))) for minutes in lengths
        ]
        rows.append([str(n), tool, *_numbers(groups[key], cells[key]), *differences])
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    notes = (
        "DSC: mean ± SD over cases of all folds. Differences: paired by fold and case, with a 95 % bootstrap interval, "
    )
    return f"{text}\n\n{notes}cases drawn. Minutes: of training with all that it needs, alone on the machine's cores.\n"


def _numbers(group: Sequence[Measured], cell: Cell) -> list[str]:
    def mean(key: str) -> float:
        return fmean(float(one[key]) for one in group)

    spread = f"{cell.mean:.3f} ± {cell.sd:.3f}" if cell.mean is not None and cell.sd is not None else "–"
    values = cell.flat
    cases = f"{len(values)} ({len(group)} × {len(values) // len(group)})"
    least = f"{min(values):.3f}" if values else "–"
    seconds = mean("prediction_seconds")
    return [f"{mean('train_seconds') / 60:.1f}", f"{mean('steps'):,.0f}", spread, cases, least, f"{seconds:.0f}"]


def _cell(group: Sequence[Mapping[str, Any]]) -> Cell:
    values: dict[Replicate, dict[str, float]] = {}
    for one in group:
        found = {case: value for case, value in one["dsc"].items() if value is not None}
        values[one["fold"],] = values.get((one["fold"],), {}) | found
    return Cell(values, len(group), len(group))


def _difference(cell: Cell, other: Cell | None) -> str:
    contrast = contrast_cells(cell, other)
    if contrast is None:
        return ""
    interval = contrast.by_case.interval
    bounds = f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else ""
    return f"{contrast.mean:+.3f}{bounds}".replace("-", "−")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
