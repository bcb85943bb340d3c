"""Two users of one machine: one runs hpcseg, the other does whatever the folders' permissions let him do.

Both are real: processes of their own with other user numbers than root's, which begins them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VICTIM, ATTACKER, GROUP = 61_001, 61_002, 61_003  # numbers of two users and of the group of both
REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 120.0

# Where the Python lies in a folder that nobody else may enter (/root), a copy of the way to it that all may enter.
_OPENED = """
set -e
closed=$1 home=$2 way=$3; shift 3
if [ -n "$closed" ]; then
    mount --bind "$home" "$way"
    mount -t tmpfs -o mode=755 hpcseg-test "$closed"
    mkdir -p "$home"
    mount --move "$way" "$home"
fi
exec setpriv "$@"
"""

_SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.two_users import serve
serve()
"""


@dataclass(frozen=True)
class Answer:
    """What a command ended with; `code` is None where it did not end in time."""

    code: int | None
    out: str
    err: str


class User:
    """A user who has hpcseg: a process that imports it once and forks for every command."""

    def __init__(self, number: int, home: Path) -> None:
        self.home, self.number = home, number
        home.mkdir(mode=0o755)
        os.chown(home, number, GROUP)
        closed, prefix = _closed_folder(Path(sys.base_prefix).resolve()), Path(sys.base_prefix).resolve()
        with tempfile.TemporaryDirectory() as way:
            who = ["--reuid", str(number), "--regid", str(GROUP), "--clear-groups", "--no-new-privs"]
            command = ["unshare", "--mount", "sh", "-c", _OPENED, "sh", closed, str(prefix), way, *who]
            environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
            environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
            self._process = subprocess.Popen(
                [*command, sys.executable, "-P", "-c", _SERVER, str(REPOSITORY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
                env=environment,
            )
            assert self._process.stdout is not None and self._process.stderr is not None
            ready = self._process.stdout.readline()
        if ready != "ready\n":
            raise RuntimeError(self._process.stderr.read())

    @property
    def process(self) -> int:
        """Number of the process that waits for commands."""
        return self._process.pid

    def call(self, folder: Path, *arguments: Any, umask: int = 0o022) -> Answer:
        """Have the user type `hpcseg ARGUMENTS` in a folder."""
        return self._ask(folder=str(folder), arguments=[str(one) for one in arguments], umask=umask)

    def start_job(self, log: Path, job: int) -> Answer:
        """Begin a local job, as the process of its pool would."""
        return self._ask(folder=str(self.home), job=[str(log), str(job)], umask=0o022)

    def _ask(self, **request: Any) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _closed_folder(folder: Path) -> str:
    """The first folder above, or this one, that others may not enter; "" where they may enter all."""
    ways = [folder, *folder.parents]
    return next((str(way) for way in reversed(ways) if not way.stat().st_mode & 0o001), "")


def serve() -> None:
    """Do what comes in, each command in a process of its own."""
    import hpcseg.cli
    import hpcseg.jobs.start
    import hpcseg.results.collect
    import hpcseg.results.export
    import hpcseg.submit.apply  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)


def _forked(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, file in enumerate((nothing, out.fileno(), err.fileno())):
                os.dup2(file, number)
            os._exit(_work(request))
        until, status = time.monotonic() + PATIENCE_S, 0
        code: int | None = None
        while code is None and time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if code is None:
            os.waitpid(pid, 0)
        texts = {}
        for name, written in (("out", out), ("err", err)):
            written.seek(0)
            texts[name] = written.read().decode(errors="replace")
        return {"code": code, **texts}


def _work(request: dict[str, Any]) -> int:
    from hpcseg.cli import main
    from hpcseg.jobs import start

    code: Any = 0
    try:
        os.chdir(request["folder"])
        os.umask(request["umask"])
        if "job" in request:
            log, job = request["job"]
            names = {"NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "LOCALID": "0", "GLOBALID": "0", "JOB_ID": job}
            os.environ.update({f"SUBMITIT_LOCAL_{name}": value for name, value in names.items()})
            os.environ["SUBMITIT_EXECUTOR"] = "local"
            code = start.main([log])
        else:
            sys.argv = ["hpcseg", *request["arguments"]]
            main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


@contextlib.contextmanager
def tried() -> Iterator[None]:
    """What follows is done if the system lets the user do it."""
    with contextlib.suppress(PermissionError, FileNotFoundError, FileExistsError):
        yield


def as_user(number: int, do: Callable[[], object]) -> None:
    """Do something as a user, in a process of its own.

    Raises:
        AssertionError: it failed otherwise than because the system does not let the user do it.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        story = ""
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(number)
            os.umask(0o000)
            do()
        except PermissionError:
            pass
        except BaseException:
            text = io.StringIO()
            traceback.print_exc(file=text)
            story = text.getvalue()
        os.write(write, story.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        story = file.read()
    os.waitpid(pid, 0)
    assert not story, story


@contextlib.contextmanager
def shared_place() -> Iterator[Path]:
    """A folder that every user may enter."""
    place = Path(tempfile.mkdtemp(prefix="hpcseg-two-users-", dir="/tmp"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def give(folder: Path, number: int) -> None:
    """Make a file, or a folder and all in it, a user's and the group's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, number, GROUP, follow_symlinks=False)
