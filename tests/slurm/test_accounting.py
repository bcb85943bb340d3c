from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.slurm.accounting import parse_accounts, read_accounts

# As sacct 22.05 gave it on a cluster with slurmdbd; the two steps OUT_OF_MEMORY as a cluster with cgroups does.
ANSWER = """\
1_0|COMPLETED|0:0|n1|2026-11-23T09:03:36|hpcseg-a
1_0.batch|COMPLETED|0:0|n1|2026-11-23T09:03:36|batch
2_3|FAILED|3:0|n1|2026-11-23T09:03:36|hpcseg-b
3_0|FAILED|9:0|n1|2026-11-23T09:03:37|hpcseg-c
3_0.0|CANCELLED by 0|0:9|n1|2026-11-23T09:03:37|python
4_1|CANCELLED by 1000|0:0|n2|2026-11-23T09:03:39|hpcseg-d
4_1.batch|CANCELLED|0:15|n2|2026-11-23T09:03:39|batch
4_0|PREEMPTED|0:0|n2|2026-11-23T09:04:12|hpcseg-d
5_[0-1,4]|PENDING|0:0|None assigned|Unknown|hpcseg-e
6_0|REQUEUED|0:0|n2|2026-11-23T09:03:39|hpcseg-f
6_1|RUNNING|0:0|n2|Unknown|hpcseg-f
8_0|NODE_FAIL|0:0|n3|2026-11-23T09:03:39|a|b
8_0.batch|CANCELLED||n3|2026-11-23T09:03:39|batch
9_3|CANCELLED|0:0|None assigned|2026-11-23T09:03:37|hpcseg-i
10_0|TIMEOUT|0:0|n1|2026-11-23T09:04:50|hpcseg-j
11_0|FAILED|1:0|n1|2026-11-23T09:04:50|hpcseg-k
11_0.0|OUT_OF_MEMORY|0:125|n1|2026-11-23T09:04:50|python
12|OUT_OF_MEMORY|0:125|n1|2026-11-23T09:04:50|hpcseg-l
"""


def test_the_ends_of_jobs_are_read_with_their_causes() -> None:
    ends = parse_accounts(ANSWER)
    assert {job: end.cause for job, end in ends.items()} == {
        "1_0": "",
        "2_3": "",
        "3_0": "killed",
        "4_1": "cancelled",
        "4_0": "preempted",
        "6_0": "requeued",
        "8_0": "node",
        "9_3": "cancelled",
        "10_0": "timeout",
        "11_0": "memory",
        "12": "memory",
    }
    assert ends["2_3"].words == "FAILED with exit code 3 on n1, 2026-11-23 09:03:36"
    assert ends["8_0"].node == "n3" and ends["9_3"].node == ""
    assert ends["9_3"].words == "CANCELLED, 2026-11-23 09:03:37"
    assert ends["11_0"].words.startswith("OUT_OF_MEMORY, FAILED with exit code 1")


def test_a_job_that_began_again_has_no_end() -> None:
    later = "10_0|RUNNING|0:0|n1|Unknown|hpcseg-j\n"
    assert "10_0" not in parse_accounts(ANSWER + later)
    assert parse_accounts("no such thing\n\n") == {}


@pytest.mark.parametrize("script", ["echo 'accounting storage is disabled' >&2; exit 1", "exec sleep 30", None])
def test_without_accounting_nothing_is_known(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcseg.slurm.accounting.TIMEOUT_S", 0.2)
    if script is not None:
        (tmp_path / "sacct").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    assert read_accounts(["7_3"]) == {}
