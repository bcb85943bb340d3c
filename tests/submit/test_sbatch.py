from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.slurm.commands import Refusal, sbatch
from hpcseg.submit import slurm


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("echo 17", "17"),
        ("echo '17;cluster2'", "17"),
        (
            "echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2; exit 1",
            Refusal("Batch job submission failed: Job violates accounting/QOS policy", heard=True),
        ),
        (
            "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1",
            Refusal("Batch job submission failed: Unable to contact slurm controller", heard=False),
        ),
        (
            "for n in 1 2; do echo 'sbatch: Slurm temporarily unable to accept job, sleeping and retrying' >&2; done\n"
            "exec sleep 60",
            Refusal(
                "sbatch did not succeed in 1 s: Slurm temporarily unable to accept job, sleeping and retrying",
                heard=False,
            ),
        ),
        ("exit 3", Refusal("sbatch failed with exit code 3", heard=True)),
    ],
)
def test_what_sbatch_says_is_passed_on_with_whether_slurm_was_heard(
    script: str, answer: str | Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text(f"#!/bin/bash\n{script}\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm, "SBATCH_TIMEOUT_S", 1)
    assert sbatch(tmp_path / "script.sh") == answer


def test_jobs_do_not_inherit_the_job_that_hpcseg_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text('#!/bin/bash\n[ -z "$SLURM_NTASKS" ] && [ "$SLURM_CONF" = here ] && echo 5\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_CONF", "here")
    assert sbatch(tmp_path / "script.sh") == "5"
