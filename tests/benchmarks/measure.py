"""Measure one benchmark in this process: `python -m tests.benchmarks.measure TITLE FILE` writes what was found."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from hpcseg.files import write_json
from tests.benchmarks.figures import Skipped
from tests.benchmarks.hardware import describe
from tests.benchmarks.registry import chosen


def main(title: str, found: Path) -> None:
    """Write {"figures", "details", "date", "hardware"}, or {"skipped": why}."""
    benchmark = chosen([title])[0]
    try:
        measured = benchmark.measure()
    except Skipped as reason:
        write_json(found, {"skipped": str(reason)})
        return
    assert measured.figures.keys() == {figure.name for figure in benchmark.figures}
    write_json(
        found,
        {
            "figures": {name: float(f"{value:.4g}") for name, value in measured.figures.items()},
            "details": measured.details,
            "date": datetime.date.today().isoformat(),
            "hardware": describe(),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
