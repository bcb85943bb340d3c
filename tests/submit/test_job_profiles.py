"""The profiles that come with hpcseg."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcseg.sections import keys_of
from hpcseg.submit.profile import Profile, read_profile

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("name", sorted(path.stem for path in JOBS.glob("*.toml")))
def test_every_profile_is_valid(name: str) -> None:
    assert isinstance(read_profile(str(JOBS / f"{name}.toml"), "slurm"), Profile)


def test_the_profile_of_a_gpu_partition_asks_for_one_gpu_and_packs_without() -> None:
    slurm = read_profile(str(JOBS / "gpu.toml"), "slurm").slurm
    assert (slurm.pack.gpus, slurm.pretrain.gpus, slurm.train.gpus) == (0, 1, 1)
    assert slurm.train.array_parallelism == 64 and slurm.train.time == 24 * 60
    assert slurm.pack.flags == {"partition": "cpu", "constraint": False}


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_the_profile_that_is_copied_has_every_key(name: str) -> None:
    template = (JOBS / f"{name}.toml").read_text()
    for key in keys_of(type(getattr(Profile(), name))):
        assert re.search(rf"\b{key.name.rpartition('.')[2]}\b", template), f"jobs/{name}.toml lacks {key.name}"
