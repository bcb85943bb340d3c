from __future__ import annotations

from hpcseg import text


def test_durations_of_each_size() -> None:
    assert [text.duration(seconds) for seconds in (None, 0, 89, 90, 5399, 5400, 1e7)] == [
        *("", "0 s", "89 s", "2 min", "90 min", "1.5 h", "2,777.8 h")
    ]
