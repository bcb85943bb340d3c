"""What a collection is made of: the garbage collector is away while it is, and as it was afterwards."""

from __future__ import annotations

import gc

import pytest

from hpcseg.results.collection import MANY, without_collector


@pytest.mark.parametrize("runs", [0, MANY])
@pytest.mark.parametrize("before", [True, False])
def test_the_garbage_collector_is_as_it_was_whatever_happens(runs: int, before: bool) -> None:
    was, frozen = gc.isenabled(), gc.get_freeze_count()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(KeyError), without_collector(runs):
            assert not gc.isenabled()
            with without_collector(0):
                pass
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is before
        assert (gc.get_freeze_count() > frozen) is (runs >= MANY)
    finally:
        gc.unfreeze()
        (gc.enable if was else gc.disable)()
