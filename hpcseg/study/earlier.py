"""Runs of versions before 0.2, whose ids were made from the first and last bytes of scans' files.

Of scans that are not compressed these say little, so that ids are made from all of their content now. What stands under
an earlier id is still taken for the same run, unless one of its files was written after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpcseg.paths import EVALUATION_FILE, RANK_EVALUATION_FILE, RESULT_FILE, RUN_FILE, STORE_FILE
from hpcseg.spec import CaseRef


@dataclass(frozen=True)
class EarlierRuns:
    """What stands below the folder of all runs."""

    root: Path

    def packed(self, run_id: str, cases: Iterable[CaseRef]) -> bool:
        """Whether a store of this id was made from the files as they are."""
        store = self.root / "pack" / run_id / STORE_FILE
        return store.is_file() and _newest(cases) <= store.stat().st_mtime_ns

    def measured(self, run_id: str, cases: Iterable[CaseRef]) -> bool:
        """Whether a run of this id was measured on the files as they are, or not at all yet."""
        run = self.root / "train" / run_id
        if not (run / RUN_FILE).is_file():
            return False
        names = (RESULT_FILE, EVALUATION_FILE, RANK_EVALUATION_FILE.format("*"))
        times = [path.stat().st_mtime_ns for name in names for path in run.glob(name)]
        return not times or _newest(cases) <= min(times)


def _newest(cases: Iterable[CaseRef]) -> int:
    """When the last of some cases' files was written, ns."""
    files = [path for case in cases for path in (case.image, case.label) if path is not None]
    return max((path.stat().st_mtime_ns for path in files), default=0)
