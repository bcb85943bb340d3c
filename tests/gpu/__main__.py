"""`python -m tests.gpu`: test and measure on the GPU of this machine, and write docs/benchmarks-gpu.*.

    python -m tests.gpu                            all parts, the most valuable first; the tests after them
    python -m tests.gpu --to FOLDER --minutes 9    page, numbers, logs, choice of kernels, traces: all into FOLDER
    python -m tests.gpu --only steps loading.busy  only some parts; the rest of the page stays as it was
    python -m tests.gpu --device cpu --to FOLDER   a rehearsal: every part at toy size, on the CPU; never into docs/
    python -m tests.gpu --page                     measures nothing, only writes the page again

Exit status: 0, or 0 with one line where there is no GPU; 1 where a test, a bound or a part failed; 2 for a bad request.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.gpu import ready

BEGAN = time.time()
MINUTES = 9.0  # in all: of a machine that is lent for a quarter of an hour, ten minutes to a command


def main(arguments: list[str]) -> int:
    """Test and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="Test and measure on the GPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal at toy size")
    parser.add_argument("--to", type=Path, help="folder for all that is found; default: docs")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="a part, its module, or tests")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that all may take")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the numbers in docs")
    given = parser.parse_args(arguments)
    if given.page:
        from tests.gpu.report import DOCS, read_results, write_page

        write_page(read_results(), DOCS)
        return 0
    if given.device == "cuda":
        state = ready.main(["--least"])
        if state != 0:
            return 0 if state == ready.NO_GPU else state
    from tests.gpu.parts import ALL, TESTS
    from tests.gpu.report import DOCS
    from tests.gpu.session import Session

    if given.device == "cpu" and (given.to is None or given.to.resolve() == DOCS):
        parser.error("a rehearsal needs --to FOLDER, and that may not be docs/: its numbers mean nothing")
    chosen = [part for part in ALL if not given.only or {part.name, part.name.split(".")[0]} & set(given.only)]
    if given.device == "cpu":
        chosen = [part for part in chosen if part is not TESTS]  # pytest is what runs them on a CPU
    if not chosen:
        parser.error(f"no part is called {' or '.join(given.only)}; there are {', '.join(part.name for part in ALL)}")
    docs = given.to or DOCS
    docs.mkdir(parents=True, exist_ok=True)
    with Session(given.device, docs, BEGAN + 60 * given.minutes) as session:
        results = session.run(chosen, keep_others=bool(given.only))
    return int(results.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
