"""The profiles that come with hpcseg."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcseg.submit.profile import Profile, StageResources, read_profile

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("name", sorted(path.stem for path in JOBS.glob("*.toml")))
def test_every_profile_is_valid(name: str) -> None:
    assert isinstance(read_profile(str(JOBS / f"{name}.toml"), "slurm"), Profile)


def test_the_profile_of_a_gpu_partition_asks_for_one_gpu_and_packs_without() -> None:
    slurm = read_profile(str(JOBS / "gpu.toml"), "slurm").slurm
    assert (slurm.pack.gpus, slurm.pretrain.gpus, slurm.train.gpus) == (0, 1, 1)
    assert slurm.train.array_parallelism == 64 and slurm.train.time == 24 * 60
    assert slurm.pack.flags == {"partition": "cpu", "constraint": False}


def test_the_profiles_of_clusters_and_their_page_name_every_key() -> None:
    page = (JOBS.parent / "docs" / "slurm.md").read_text()
    template = (JOBS / "slurm.toml").read_text()
    slurm = Profile().slurm
    keys = [
        *(type(slurm).model_fields.keys() - {"pack", "pretrain", "train", "budgets"}),
        *StageResources.model_fields,
        *type(slurm.budgets).model_fields,
    ]
    for key in keys:
        assert re.search(rf"\b{key}\b", template), f"jobs/slurm.toml does not explain {key}"
        assert f"`{key}`" in page, f"docs/slurm.md does not explain {key}"
