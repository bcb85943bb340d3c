"""python -m tests.fuzzing [FORMAT ...] [--number 1000] [--seed 0]: damage files of a tiny study, and say what fell."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests import conftest
from tests.fuzzing.formats import FORMATS
from tests.fuzzing.judging import storm
from tests.fuzzing.study import make_study


def main() -> None:
    """Run storms of the formats that are named, or of all."""
    names = [one.name for one in FORMATS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(names))
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := set(given.formats) - set(names):
        parser.error(f"no such format: {', '.join(unknown)}; there are: {', '.join(names)}")
    fallen = 0
    with tempfile.TemporaryDirectory(prefix="hpcseg-fuzzing-") as folder:
        study = make_study(Path(folder), conftest.write_dataset.__wrapped__())  # type: ignore[attr-defined]
        for one in FORMATS:
            if not given.formats or one.name in given.formats:
                began = time.process_time()
                tally = storm(one, study, given.number, given.seed)
                print(f"{tally.line(one.name)}   {time.process_time() - began:.1f} s", flush=True)
                for fall in tally.falls:
                    print(f"  {fall}", flush=True)
                fallen += len(tally.falls)
    sys.exit(1 if fallen else 0)


if __name__ == "__main__":
    main()
