"""Damaged files of every format: read as before, refused in one line, or left out with a note, in time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzzing.formats import FORMATS
from tests.fuzzing.judging import Format
from tests.fuzzing.judging import storm as damage
from tests.fuzzing.study import Study, make_study


@pytest.fixture(scope="module")
def study(write_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A tiny study, which every storm leaves as it was."""
    return make_study(tmp_path_factory.mktemp("fuzzing"), write_dataset)


@pytest.mark.parametrize("chosen", FORMATS, ids=lambda one: one.name)
def test_no_damage_ends_in_a_traceback_or_in_other_numbers(
    study: Study, chosen: Format, storm: Callable[[int, int], int]
) -> None:
    tally = damage(chosen, study, storm(30, 300))
    assert not tally.falls, "\n".join(tally.falls)
