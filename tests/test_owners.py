"""What is looked at before anything is written; what other users may do has its tests in test_two_users.py."""

from __future__ import annotations

import os

import pytest

from hpcseg.errors import BadInput
from hpcseg.owners import require_own_ways
from tests.two_users import VICTIM, as_user, shared_place


def test_a_folder_that_this_user_may_only_read_is_named_with_what_to_do() -> None:
    with shared_place() as place:
        runs = place / "runs"
        (runs / "sweeps").mkdir(parents=True)
        (runs / "sweeps").chmod(0o555)

        def look() -> None:
            (runs / "sweeps").stat()
            with pytest.raises(BadInput, match="cannot be written in by this user; use a folder of runs of your own"):
                require_own_ways(runs, [runs / "sweeps"])
            (place / "looked").touch()

        place.chmod(0o777)
        runs.chmod(0o755)
        if os.geteuid():
            look()
        else:
            as_user(VICTIM, look)  # root's folder; root itself may write anywhere
        assert (place / "looked").exists()
        (runs / "sweeps").chmod(0o755)
