"""A real Slurm for the session: slurmctld and slurmd of an ordinary user in one short-lived folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
NODES = 2
CONFIGURATION = """\
ClusterName=hpcseg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=5
KillWait=1
MinJobAge=86400
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes=n[1-{nodes}] Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=n[1-{nodes}] PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Cluster:
    """A running Slurm; its tools find it through SLURM_CONF."""

    folder: Path

    def wait(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll until `condition` holds; on timeout show what Slurm says."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                queue = subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True, check=False).stdout
                log = (self.folder / "ctld.log").read_text()[-2000:]
                raise TimeoutError(f"{queue}\n{log}")
            time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Start a cluster of two nodes with two fake GPUs each; skips where Slurm is not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        pytest.skip(f"no Slurm here ({', '.join(missing)} missing): apt-get install slurmctld slurmd slurm-client")
    folder = Path(tempfile.mkdtemp(prefix="sl"))  # short: socket paths have a limit
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("SLURM_", "SBATCH_"))}
    path = os.environ["PATH"]
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    _configure(folder)
    daemons = [_start(folder, "slurmctld", "-D", "-i", "-f", str(folder / "slurm.conf"))]
    daemons += [_start(folder, "slurmd", "-D", "-N", f"n{n}") for n in range(1, NODES + 1)]
    cluster = Cluster(folder)
    try:
        cluster.wait(_idle, 20.0)
        yield cluster
    finally:
        subprocess.run(["scancel", "--me"], check=False, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
            daemon.kill()
        del os.environ["SLURM_CONF"]
        os.environ |= {**kept, "PATH": path}
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    host = socket.gethostname().split(".")[0]
    port = _free_ports(NODES + 1)
    for name in ("state", *(f"spool-n{n}" for n in range(1, NODES + 1))):
        (folder / name).mkdir()
    text = CONFIGURATION.format(
        host=host,
        folder=folder,
        user=os.environ.get("USER") or _user(),
        nodes=NODES,
        port=port,
        first=port + 1,
        last=port + NODES,
    )
    (folder / "slurm.conf").write_text(text)
    for n in range(2):
        (folder / f"gpu{n}").symlink_to("/dev/null")
    (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n[1-{NODES}] Name=gpu File={folder}/gpu[0-1]\n")


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> int:
    """The first of `count` consecutive free ports."""
    for first in range(26820, 30000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise OSError("no free ports")


def _start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    log = (folder / f"{command[0]}.out").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _idle() -> bool:
    answer = subprocess.run(["sinfo", "-h", "-o", "%t %D"], capture_output=True, text=True, check=False)
    return f"idle {NODES}" in answer.stdout


def _path() -> str:
    return os.environ["PATH"] + os.pathsep + "/usr/sbin"
