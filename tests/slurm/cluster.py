"""A real Slurm of this user in one short-lived folder: slurmctld and three slurmd, on request slurmdbd and MariaDB.

A guardian process ends everything that belongs to the cluster, its jobs included, when the tests end, however they do.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import PATIENCE_S, wait_for

NODES = ("n1", "n2", "n3")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "my_print_defaults")
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
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill,UsePss
JobAcctGatherFrequency=task=1
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=900
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=300
KillWait=20
MinJobAge=86400
MaxJobCount=100000
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes=n[1-{nodes}] Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=n[1-{nodes}] PriorityTier=10 PreemptMode=OFF
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
"""
DATABASE = """\
DbdHost=localhost
DbdPort={port}
AuthType=auth/none
SlurmUser={user}
PidFile={folder}/dbd.pid
LogFile={folder}/dbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=hpcseg
"""
# Waits until the tests close its standard input, or die, then ends whatever knows this cluster's SLURM_CONF.
GUARDIAN = """\
import os, shutil, signal, sys, time
from pathlib import Path
folder = sys.argv[1]
mark = f"SLURM_CONF={folder}/slurm.conf".encode()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()
for _ in range(2000):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int(path.name) != os.getpid() and mark in (path / "environ").read_bytes().split(b"\\0"):
                found.append(int(path.name))
        except OSError:
            pass
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    if not found:
        break
    time.sleep(0.05)
shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass
class Cluster:
    """A running Slurm. Its tools find it through SLURM_CONF, which `current` sets for this process."""

    folder: Path
    environment: dict[str, str]
    accounting: bool = False
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """This process and its children talk to this cluster, and to no other."""
        before = dict(os.environ)
        for name in before:
            if name.startswith(("SLURM_", "SBATCH_", "SACCT_", "SQUEUE_")):
                del os.environ[name]
        os.environ |= {name: self.environment[name] for name in ("SLURM_CONF", "PATH")}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def call(self, *command: str, check: bool = True) -> str:
        """Output of one of Slurm's tools."""
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment)
        if check and answer.returncode:
            raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
        return answer.stdout

    def wait(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Poll until `condition` holds; on timeout show what Slurm says."""
        until = time.monotonic() + timeout_s
        while not condition():
            if self._daemons["slurmctld"].poll() is not None:
                raise RuntimeError(f"slurmctld ended: {(self.folder / 'slurmctld.out').read_text()[-2000:]}")
            if time.monotonic() > until:
                queue = self.call("squeue", "--long", "--array", check=False)
                jobs = self.call("scontrol", "show", "job", check=False)[-3000:]
                raise TimeoutError(f"{queue}\n{jobs}\n{(self.folder / 'ctld.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def is_free(self) -> bool:
        """No job waits or runs, and all nodes are idle."""
        nodes = self.call("sinfo", "--noheader", "--partition=main", "--format=%t %D", check=False).split()
        return nodes == ["idle", str(len(NODES))] and not self.call("squeue", "--noheader", check=False).strip()

    def clear(self) -> None:
        """Cancel all jobs, end their processes without ceremony, and bring back nodes that are down."""
        for name in NODES:
            if self._daemons[name].poll() is not None:
                self.node_up(name)
        if self.is_free():
            return

        def cleared() -> bool:
            self.call("scancel", "--me", check=False)
            for pid, _ in self._processes("SLURM_JOB_ID="):
                _kill(pid)
            return self.is_free()

        self.wait(cleared)

    def node_down(self, name: str) -> None:
        """A node dies, with all that runs on it; Slurm knows at once."""
        own = [pid for pid, _ in self._processes(f"SLURMD_NODENAME={name}")]
        parents = {parent for pid in own if (parent := _parent(pid)) is not None and _is_stepd(parent)}
        self._stop(name)
        for pid in (*parents, *own):  # the steps first, which would tell of the others' end
            _kill(pid)
        self.call("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def node_up(self, name: str) -> None:
        """The node is back, empty."""
        self._start(name, "slurmd", "-D", "-N", name)
        self.call("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        states = ("idle", "mixed", "allocated", "completing")
        shown = ("sinfo", "--noheader", f"--nodes={name}", "--partition=main", "--format=%T")
        self.wait(lambda: self.call(*shown, check=False).strip() in states)

    def stop_controller(self) -> None:
        """slurmctld writes down what it knows and ends; nobody answers until `start_controller`."""
        self._daemons["slurmctld"].terminate()
        self._daemons["slurmctld"].wait()

    def start_controller(self) -> None:
        """slurmctld is there, with what it had written down; waits until it answers."""
        self._start("slurmctld", "slurmctld", "-D", "-i", "-f", str(self.folder / "slurm.conf"))
        self.wait(lambda: "is UP" in self.call("scontrol", "ping", check=False))

    def restart_daemon(self, name: str) -> None:
        """The slurmd of a node dies and is there again, while jobs on the node live on."""
        self._stop(name)
        self._start(name, "slurmd", "-D", "-N", name)

    @contextlib.contextmanager
    def pause_controller(self) -> Iterator[None]:
        """slurmctld stands still: what is asked meanwhile it does afterwards."""
        controller = self._daemons["slurmctld"]
        controller.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            controller.send_signal(signal.SIGCONT)

    def job_process(self, job: str, rank: int = 0) -> int:
        """Process that runs one rank of a running job (array_task, or an id); all nodes are this host.

        Raises:
            LookupError: it does not run.
        """
        array, _, task = job.partition("_")
        wanted = [f"SLURM_PROCID={rank}"]
        wanted += [f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"] if task else [f"SLURM_JOB_ID={array}"]
        found = [
            pid for pid, command in self._processes(*wanted) if "hpcseg.jobs.start" in command and "srun" not in command
        ]
        if not found:
            raise LookupError(f"no process of rank {rank} of job {job}")
        return min(found)  # workers that it forked came later

    def _processes(self, *variables: str) -> Iterator[tuple[int, str]]:
        """Processes of this cluster that were started with all of these variables ("NAME=" for any value)."""
        wanted = (f"SLURM_CONF={self.environment['SLURM_CONF']}", *variables)
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                given = (folder / "environ").read_text(errors="replace").split("\0")
                command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
                if all(_given(variable, given) for variable in wanted):
                    yield int(folder.name), command

    def _start(self, name: str, *command: str, **variables: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,  # for their core files
                env={**self.environment, **variables},
            )

    def _stop(self, name: str) -> None:
        self._daemons[name].kill()
        self._daemons[name].wait()


def _given(variable: str, given: list[str]) -> bool:
    return any(entry.startswith(variable) for entry in given) if variable.endswith("=") else variable in given


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def _is_stepd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith("slurmstepd")
    return False


def missing_programs(accounting: bool = False) -> list[str]:
    """Programs that a cluster needs and this machine lacks."""
    needed = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    return [name for name in needed if shutil.which(name, path=_path()) is None]


@contextlib.contextmanager
def running_cluster(accounting: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Start a cluster of three nodes of 4 CPUs, 4000 MB and two fake GPUs each.

    Jobs that take more memory than they asked for are killed. `high` is a partition that preempts `main`.

    Args:
        accounting: with slurmdbd and MariaDB behind it, so that sacct answers.
        settings: further lines of slurm.conf, e.g. {"MaxArraySize": "20001"}.
    """
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short: socket paths have a limit
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    guardian = subprocess.Popen(
        [sys.executable, "-c", GUARDIAN, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert guardian.stdin is not None
    cluster = Cluster(folder, environment, accounting)
    ports = contextlib.ExitStack()
    try:
        first = ports.enter_context(_reserved_ports(len(NODES) + 2))
        _configure(folder, first, accounting, settings or {})
        if accounting:
            _start_accounting(cluster, first)
        cluster._start("slurmctld", "slurmctld", "-D", "-i", "-f", str(folder / "slurm.conf"))
        for name in NODES:
            cluster._start(name, "slurmd", "-D", "-N", name)
        cluster.wait(cluster.is_free)
        yield cluster
    finally:
        guardian.stdin.close()
        guardian.wait(PATIENCE_S)
        for daemon in cluster._daemons.values():
            daemon.wait(PATIENCE_S)
        ports.close()


def _configure(folder: Path, first: int, accounting: bool, settings: Mapping[str, str]) -> None:
    """Write the configuration; slurmdbd has the first port, slurmctld the next, then come the nodes."""
    port = first + 1
    for name in ("state", *(f"spool-{name}" for name in NODES)):
        (folder / name).mkdir()
    words = {"host": socket.gethostname().split(".")[0], "folder": folder, "user": _user(), "nodes": len(NODES)}
    text = CONFIGURATION.format(**words, port=port, first=port + 1, last=port + len(NODES))
    if accounting:
        text += ACCOUNTING.format(port=port - 1)
        (folder / "slurmdbd.conf").touch(0o600)
        (folder / "slurmdbd.conf").write_text(DATABASE.format(**words, port=port - 1))
    text += "".join(f"{key}={value}\n" for key, value in settings.items())
    (folder / "slurm.conf").write_text(text)
    for n in range(2):
        (folder / f"gpu{n}").symlink_to("/dev/null")
    gpus = f"AutoDetect=off\nNodeName=n[1-{len(NODES)}] Name=gpu File={folder}/gpu[0-1]\n"
    (folder / "gres.conf").write_text(gpus)


def _start_accounting(cluster: Cluster, port: int) -> None:
    """MariaDB on a socket in the cluster's folder, slurmdbd, and this user as a member of the account `lab`."""
    folder, user = cluster.folder, _user()
    data, database_socket = folder / "db", folder / "db.sock"
    cluster.call(
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        f"--user={user}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    )
    cluster._start(
        "mariadbd",
        "mariadbd",
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={database_socket}",
        f"--pid-file={folder / 'db.pid'}",
        f"--user={user}",
        "--skip-networking",
        "--innodb-flush-log-at-trx-commit=0",
    )
    wait_for(database_socket.exists)
    cluster._start("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(database_socket))
    wait_for(lambda: _listens(port))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


@contextlib.contextmanager
def _reserved_ports(count: int) -> Iterator[int]:
    """The first of `count` consecutive free ports, which no other cluster of these tests takes meanwhile."""
    for first in range(26820, 30000, count):
        with contextlib.ExitStack() as stack:
            claim = stack.enter_context(socket.socket(socket.AF_UNIX))
            try:
                claim.bind(f"\0hpcseg-tests-{first}")  # a name without a file, free again when this process ends
                with contextlib.ExitStack() as probes:
                    for port in range(first, first + count):
                        probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            yield first
            return
    raise OSError("no free ports")


def _path() -> str:
    return os.environ["PATH"] + os.pathsep + "/usr/sbin"
