from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.slurm.calls import CallError, Failure, call, environment, ignored_wishes

Tools = Callable[..., Path]


@pytest.mark.parametrize(
    ("script", "failure", "words", "lines"),
    [
        ("exit 3", "refused", "sinfo failed with exit code 3", ()),
        ("printf 'sinfo: error: No. \\303' >&2; exit 1", "refused", "No. \ufffd", ("No. \ufffd",)),
        ("echo a >&2; echo b >&2; echo a >&2; exit 1", "refused", "a; b", ("a", "b")),
        ("exec sleep 60", "silent", "sinfo did not answer in 3 s", ()),
        ("echo waits >&2; exec sleep 60", "silent", "sinfo did not succeed in 3 s: waits", ("waits",)),
        (None, "absent", "sinfo is not installed here", ()),
        ("", "absent", "sinfo cannot be run (Permission denied)", ()),
    ],
)
def test_what_goes_wrong_is_one_error_with_one_line(
    script: str | None,
    failure: Failure,
    words: str,
    lines: tuple[str, ...],
    slurm_tools: Tools,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tools = slurm_tools(**({} if script is None else {"sinfo": script}))
    if script == "":
        (tools / "sinfo").chmod(0o644)
    monkeypatch.setenv("PATH", f"{tools}:/bin" if script else str(tools))
    with pytest.raises(CallError) as caught:
        call("sinfo", timeout_s=3)
    assert (caught.value.failure, str(caught.value), caught.value.lines) == (failure, words, lines)


def test_an_answer_is_read_whatever_bytes_it_has(slurm_tools: Tools) -> None:
    slurm_tools(sinfo='printf "%s \\377" "$2"')
    assert call("sinfo", "--format", "a b") == "a b \ufffd"


def test_slurms_commands_do_not_see_the_job_that_hpcseg_runs_in(
    slurm_tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_tools(sbatch="env")
    kept = {"SLURM_CONF": "here", "SLURM_CLUSTERS": "a", "SLURM_JWT": "key"}
    own = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "9", "SBATCH_ACCOUNT": "b", "SBATCH_QOS": "", "SLURM_BITSTR_LEN": "64"}
    for name, value in {**kept, **own}.items():
        monkeypatch.setenv(name, value)
    assert ignored_wishes() == ["SBATCH_ACCOUNT"]
    assert environment().items() >= {**kept, "SLURM_BITSTR_LEN": "0", "PATH": os.environ["PATH"]}.items()
    seen = {line.partition("=")[0] for line in call("sbatch").splitlines()}
    assert kept.keys() <= seen and not {"SLURM_NTASKS", "SLURM_JOB_ID", "SBATCH_ACCOUNT"} & seen
