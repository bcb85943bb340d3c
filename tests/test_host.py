from __future__ import annotations

import os
import subprocess
import sys

from hpcseg.host import is_alive, process_start


def test_a_process_is_known_by_pid_and_start() -> None:
    mine = process_start(os.getpid())
    assert mine is not None and is_alive(os.getpid(), mine) and not is_alive(os.getpid(), mine + 1)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None  # a zombie is not alive
    child.wait()
    assert process_start(child.pid) is None
