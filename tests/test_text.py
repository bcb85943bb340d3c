from __future__ import annotations

from hpcseg import text
from hpcseg.text import printable


def test_durations_of_each_size() -> None:
    assert [text.duration(seconds) for seconds in (None, 0, 89, 90, 5399, 5400, 1e7)] == [
        *("", "0 s", "89 s", "2 min", "90 min", "1.5 h", "2,777.8 h")
    ]


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    for code in [*range(0x20), *range(0x7F, 0xA0), 0x061C, *range(0x200E, 0x2010), *range(0x2028, 0x202F), 0xD800]:
        shown = printable(f"a{chr(code)}b")
        assert shown in ("a\tb", "a\nb") if chr(code) in "\t\n" else shown.isprintable() and len(shown) >= 6
    kept = "µ × 脳 😀 é – line\nand\ttab"
    assert printable(kept) == kept
