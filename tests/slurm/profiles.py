"""Profiles of small jobs for the tests' Slurm."""

from __future__ import annotations

from typing import Any

from hpcseg.paths import STAGES
from hpcseg.submit.profile import Profile


def profile_of(**slurm: Any) -> Profile:
    """One CPU, no GPU and 900 MB in every stage, and what else `slurm` says."""
    stages = {stage: {"time": 60, "cpus": 1, "memory": "900M", "gpus": 0, "signal_lead": 30} for stage in STAGES}
    return Profile.model_validate({"slurm": {**stages, **slurm}})
