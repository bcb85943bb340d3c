"""How much of a plan's work is done, in epochs and cases, and how long the rest will take: the bar of a local sweep.

A stage's speed is its own where its heartbeats tell it, else that of its siblings (`hpcseg.study.forecast`), else that
of all that trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.evidence import State
from hpcseg.spec import LabelSpec, PackSpec, TrainSpec
from hpcseg.study.forecast import PHASES, Kind, epochs_done, epochs_of, kind_of
from hpcseg.study.plan import Plan, PlannedStage
from hpcseg.submit.outlook import measured_siblings

_OF_CASES = {"pack": "pack", "label": "labelling", "train": "evaluating"}  # phase in which a stage counts cases


@dataclass
class _Part:
    """Epochs, or cases, of one stage: `units` in all, of which `share` are likely to be needed."""

    kind: Kind
    units: int
    done: float = 0.0
    share: float = 1.0

    @property
    def left(self) -> float:
        """Units that are likely to come."""
        return max(self.units * self.share - self.done, 0.0)


@dataclass
class Workload:
    """The work of a plan while its stages run.

    Attributes:
        at_once: stages that run at a time.
    """

    needs: Mapping[str, Sequence[str]]
    parts: Mapping[str, Mapping[str, _Part]]  # by stage; "epochs", "cases"
    at_once: int
    _speeds: dict[Kind, dict[str, float]] = field(default_factory=dict)  # seconds of a unit, by run
    _ended: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, plan: Plan, at_once: int, ranks: int = 1) -> Workload:
        """What `plan` has to do, and how fast what was done of it went with `ranks` processes for each stage."""
        made = cls(
            needs={run_id: planned.needs for run_id, planned in plan.stages.items()},
            parts={run_id: _parts(planned) for run_id, planned in plan.stages.items()},
            at_once=at_once,
        )
        trained = [parts["epochs"] for parts in made.parts.values() if "epochs" in parts]
        for kind, found in measured_siblings(plan, {part.kind for part in trained}).items():
            made._speeds[kind] = {str(number): one.epoch_s / ranks for number, one in enumerate(found)}
            if shares := [one.share for one in found if one.share is not None]:
                for part in (part for part in trained if part.kind == kind):
                    part.share = fmean(shares)
        for run_id, planned in plan.stages.items():
            if planned.verdict.state == "done":
                made.ended(run_id, "done")
            elif planned.verdict.state != "new" and "epochs" in made.parts[run_id]:
                made.parts[run_id]["epochs"].done = epochs_done(plan.run(run_id))
        return made

    @property
    def total(self) -> int:
        """Epochs and cases of all stages."""
        return sum(part.units for parts in self.parts.values() for part in parts.values())

    @property
    def done(self) -> float:
        """Those that are done; all of a stage that has ended early."""
        return sum(part.done for parts in self.parts.values() for part in parts.values())

    @property
    def ended_stages(self) -> int:
        """How many stages have ended, well or not."""
        return len(self._ended)

    def beat(self, run_id: str, beat: Heartbeat) -> None:
        """Take what a stage says of itself."""
        what = "epochs" if beat.phase in PHASES else "cases" if beat.phase in _OF_CASES.values() else ""
        part = self.parts[run_id].get(what)
        if part is None or not beat.steps:
            return
        if what == "cases" and "epochs" in self.parts[run_id]:
            self.parts[run_id]["epochs"].done = self.parts[run_id]["epochs"].units
        part.done = part.units * beat.step / beat.steps
        if beat.eta_s and beat.step < beat.steps:
            step_s = beat.eta_s / (beat.steps - beat.step)
            self._speeds.setdefault(part.kind, {})[run_id] = step_s * beat.steps / part.units

    def ended(self, run_id: str, state: State) -> None:
        """Take the end of a stage; what did not get there is not waited for."""
        self._ended.add(run_id)
        for part in self.parts[run_id].values() if state == "done" else ():
            part.done = part.units

    @property
    def left_s(self) -> float | None:
        """Seconds until all stages have ended, about; None before the speed of any training is known.

        As long as the longest chain of stages that need each other, and as all of them side by side.
        """
        seconds: dict[str, float] = {}
        until: dict[str, float] = {}
        for run_id, parts in self.parts.items():  # ancestors first
            known = [self._seconds(run_id, part) for part in parts.values()]
            if run_id not in self._ended and None in known:
                return None
            seconds[run_id] = 0.0 if run_id in self._ended else sum(one for one in known if one is not None)
            until[run_id] = seconds[run_id] + max((until.get(need, 0.0) for need in self.needs[run_id]), default=0.0)
        return max(*until.values(), sum(seconds.values()) / self.at_once, 0.0)

    def _seconds(self, run_id: str, part: _Part) -> float | None:
        own, of_cases = self._speeds.get(part.kind, {}), part.kind[0] in _OF_CASES.values()
        if not own and of_cases:
            return 0.0  # nobody knows yet how long a case takes: little beside training
        others = (runs.values() for kind, runs in self._speeds.items() if kind[0] not in _OF_CASES.values())
        pool = list(own.values()) or [speed for speeds in others for speed in speeds]
        return part.left * own.get(run_id, fmean(pool)) if pool else None


def _parts(planned: PlannedStage) -> dict[str, _Part]:
    """What a stage has to do."""
    parts, spec = {}, planned.spec
    if planned.config is not None and planned.stage in {"pretrain", "train"}:
        kind = kind_of(planned.stage, planned.config, planned.level)
        parts["epochs"] = _Part(kind, epochs_of(planned.stage, planned.config))
    if isinstance(spec, PackSpec):
        cases = len(spec.cases)
    elif isinstance(spec, LabelSpec):
        cases = len(spec.source.cases)
    else:
        cases = len(spec.validation_scans) + len(spec.test_scans) if isinstance(spec, TrainSpec) else 0
    return parts | ({"cases": _Part((_OF_CASES[planned.stage],), cases)} if cases else {})
