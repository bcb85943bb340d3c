"""What a job's tasks begin with, in both back ends: `python -m hpcseg.jobs.start FOLDER`, then submitit goes on.

submitit loads what to do from a pickle, and whoever writes a pickle decides what is executed. So before that its owner
and mode are looked at, and those of the folders above: what others could have written ends the job with one line.
"""

from __future__ import annotations

import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcseg.owners import WrittenByOthers, read_own, require_own_ways, write_for_this_user
from hpcseg.paths import LOG_FOLDER
from hpcseg.runs.rundir import RunDir


def main(arguments: list[str]) -> int:
    """Run the job whose pickle lies in the folder that is given."""
    if len(arguments) != 1:
        print("usage, in a job: python -m hpcseg.jobs.start FOLDER", file=sys.stderr)
        return 2
    from submitit.core import submission, utils

    write_for_this_user()
    folder = Path(arguments[0])
    local = folder.name == LOG_FOLDER  # of one run; else an array's
    root = folder.parents[2 if local else 1]

    def load(path: Path | str) -> Any:
        return pickle.loads(read_own(root, Path(path)))

    utils.DelayedSubmission.load = load  # type: ignore[method-assign,assignment]
    try:
        require_own_ways(root, [folder])  # submitit writes there, too
        submission.process_job(folder)
    except WrittenByOthers as error:
        with suppress(WrittenByOthers):  # where others may write, error.json may be a way elsewhere
            require_own_ways(root, [folder.parent])
            if local:
                RunDir(folder.parent).write_error(error)
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
