from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.errors import LeftOut
from hpcseg.paths import ATTEMPTS_FILE
from hpcseg.runs.attempts import Attempt, gpu_seconds, read_attempts, write_attempt
from hpcseg.seals import append_line

FIRST = Attempt(1, "4_2", "n1", 100.0, gpus=2, logs={"4_2_0_log.err": 12})
SECOND = Attempt(2, "4_2", "n2", 300.0, restart=1, gpus=2)


def test_attempts_are_known_by_their_last_word(tmp_path: Path) -> None:
    assert read_attempts(tmp_path) == []
    write_attempt(tmp_path, FIRST)
    ended = replace(FIRST, cause="node", detail="n1 failed", ended=200.0, lost_s=30.0)
    write_attempt(tmp_path, ended)
    write_attempt(tmp_path, SECOND)
    assert read_attempts(tmp_path) == [ended, SECOND]
    assert gpu_seconds([ended, SECOND], now=350.0) == (2 * 100 + 2 * 50, 60.0)


def test_a_torn_line_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    write_attempt(tmp_path, FIRST)
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"event": "end", "numb')
    write_attempt(tmp_path, SECOND)
    with pytest.warns(LeftOut):
        assert read_attempts(tmp_path) == [FIRST, SECOND]


@pytest.mark.parametrize("began", [None, "x", 1e300, -1.0, [1]])
def test_a_line_with_values_of_other_kinds_is_left_out(tmp_path: Path, began: object) -> None:
    write_attempt(tmp_path, FIRST)
    append_line(tmp_path / ATTEMPTS_FILE, {**asdict(SECOND), "event": "begin", "began": began}, tmp_path.name)
    with pytest.warns(LeftOut, match=r"attempts\.jsonl: a line is no attempt"):
        assert read_attempts(tmp_path) == [FIRST]


@pytest.mark.filterwarnings("ignore")
@given(st.text() | st.dictionaries(st.sampled_from(["event", "number", "job"]), st.none() | st.text()).map(json.dumps))
def test_no_text_is_an_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ATTEMPTS_FILE).write_text(text, encoding="utf-8", errors="replace")
        assert isinstance(read_attempts(Path(folder)), list)


def test_a_job_that_is_requeued_without_a_heartbeat_keeps_its_attempts_apart(tmp_path: Path) -> None:
    write_attempt(tmp_path, FIRST)
    write_attempt(tmp_path, replace(FIRST, restart=1))
    assert len(read_attempts(tmp_path)) == 2


def test_a_beginning_behind_its_end_says_nothing_new(tmp_path: Path) -> None:
    ended = replace(FIRST, cause="node", detail="n1 failed", ended=200.0, lost_s=30.0)
    for attempt in (SECOND, ended, FIRST):
        write_attempt(tmp_path, attempt)
    assert read_attempts(tmp_path) == [ended, SECOND]
