"""Baseline: a segmentation network on the labelled volumes alone (paper 3.1.1)."""

from __future__ import annotations

from hpcseg.sections import Section
from hpcseg.training.strategy import Strategy
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask


class Baseline(Strategy[Section]):
    """A fresh network, trained from scratch."""

    name, label, order = "baseline", "Baseline", 0
    section_type = Section
    paper_hours = 80

    def task(self, inputs: Inputs) -> SegmentationTask:
        """A fresh network."""
        return SegmentationTask(inputs)
