"""A rank that dies ends the others, whatever they wait for; played by threads and a store of this process."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from hpcseg.training import liveness
from hpcseg.training.liveness import BEAT_S, MISSED, Liveness, end_process
from tests.waiting import wait_for

BEAT = 0.02


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("localhost", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


def test_a_rank_that_beats_no_more_is_lost_to_the_others(store: TCPStore) -> None:
    lost: list[str] = []
    first, second = (Liveness(store, rank, 2, lost.append, BEAT) for rank in range(2))
    second.end()
    wait_for(lambda: lost != [])
    assert lost == ["rank 0 of 2: rank 1 ended or gives no sign of life"]
    first.end()
    assert (MISSED + 2) * BEAT_S + liveness.ANSWER_S <= 60, "within a minute"


def test_a_store_that_does_not_answer_is_rank_0_lost(store: TCPStore) -> None:
    lost: list[str] = []
    watch = Liveness(store, 1, 2, lost.append, BEAT)

    class Gone:
        def add(self, *_: object) -> int:
            raise RuntimeError("connection reset by peer")

    watch._store = Gone()  # type: ignore[assignment]
    wait_for(lambda: lost != [])
    assert lost == ["rank 1 of 2: rank 0 ended or gives no sign of life"]
    watch.end()


def test_ranks_that_part_lose_nobody(store: TCPStore) -> None:
    lost: list[str] = []
    watches = [Liveness(store, rank, 2, lost.append, BEAT) for rank in range(2)]
    for watch in watches:
        watch.end()
    time.sleep(2 * MISSED * BEAT)
    assert lost == []


def test_the_process_ends_at_once_and_says_which_rank_was_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    end_process("rank 1 of 2: rank 0 ended or gives no sign of life")
    assert codes == [1]
    assert capsys.readouterr().err.startswith("hpcseg.errors.RankLost: rank 1 of 2: rank 0 ended")
