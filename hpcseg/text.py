"""Numbers as people read them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Seconds as text; "" for None.

    >>> duration(4), duration(200), duration(9000)
    ('4 s', '3 min', '2.5 h')
    """
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def counted(number: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(1250, "run")
    ('1 run', '1,250 runs')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
