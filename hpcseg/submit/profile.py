"""Job profiles: what a job may use, here or on a cluster.

Nothing in a profile is part of a run's identity.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from hpcseg.errors import BadInput
from hpcseg.owners import require_own_file
from hpcseg.paths import STAGES
from hpcseg.runs.records import Kernels
from hpcseg.runs.recovery import Budgets
from hpcseg.sections import Count, Section, key, keys_of
from hpcseg.spec import Reading
from hpcseg.study.shipped import find_shipped, names_of
from hpcseg.study.sweepfile import TABLES
from hpcseg.study.tomlfile import explain, read_toml
from hpcseg.submit.notations import Flags, Line, Minutes
from hpcseg.text import word

PROFILES = Path("jobs")
GIB_PER_SLOT = 4.0  # memory that a slot is expected to need, where their number is chosen by itself


class _Jobs(Reading):
    """What both kinds of jobs share: how they read their stores, and whether hpcseg's own GPU kernels compute."""

    kernels: Kernels = key(
        "auto",
        "on GPUs: hpcseg's own kernels where they are faster, or torch's alone; trial: as auto, and cuDNN may time its "
        "algorithms, so that a run that goes on may round otherwise",
        source="ours: speed; torch where ours fail on a GPU or driver",
    )

    @property
    def reading(self) -> Reading:
        """How stores are read, as it is recorded with each job."""
        return Reading(stage=self.stage, tier=self.tier)


class LocalProfile(_Jobs):
    """Jobs on this machine."""

    slots: Annotated[int, Field(ge=0)] = key(
        0,
        "jobs at once; 0: one per GPU, without GPUs one per core, at most one per run and per 4 GiB of memory",
        unit="jobs",
        source="ours: what the machine has (`resolve`)",
    )
    threads: Annotated[int, Field(ge=0)] = key(
        0,
        "CPU threads of each of a job's processes; 0: cores / slots; a run keeps its first number",
        unit="threads",
        source="ours: a number of threads is part of the bits",
    )
    pack_workers: Annotated[int, Field(ge=0)] = key(
        0,
        "processes that pack one dataset, each with one volume and its resampled copy in memory; 0: as many as fit",
        unit="processes",
        source="ours: what the machine has (`resolve`)",
    )
    ranks: Count = key(
        1,
        "processes that train one run together, each with a GPU of its own where there are any",
        unit="processes",
        source="ours: same results to rounding, sooner",
    )

    def ranks_of(self, stage: str) -> int:
        """Processes of a job of one stage; a pack has one."""
        return 1 if stage == "pack" else self.ranks

    def gpus_of(self, slot: int, gpus: Sequence[str]) -> str:
        """CUDA_VISIBLE_DEVICES of the job in a slot: as many of the host's `gpus` as it has ranks."""
        first = slot * self.ranks
        return ",".join(gpus[index % len(gpus)] for index in range(first, first + self.ranks)) if gpus else ""


class StageResources(Section):
    """What one job of a stage asks for.

    A job that trains has one task per GPU, on CPUs one per node; they train one run together.
    """

    time: Minutes = key(
        24 * 60,
        'limit of one job: minutes, "HH:MM:SS" or "D-HH:MM:SS"; a run that needs longer goes on in the next',
        unit="minutes",
        source="sbatch --time",
    )
    cpus: Count = key(
        8,
        "cores per task; a pack has a volume per core in memory, about 4 GB",
        unit="cores",
        source="sbatch --cpus-per-task",
    )
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?B?$")] = key(
        "32G", "of each node; more for a run that used it up before", source="sbatch --mem"
    )
    gpus: Annotated[int, Field(ge=0)] = key(
        1, "per node; they train one run together, the minibatch shared", unit="GPUs", source="sbatch --gpus-per-node"
    )
    nodes: Count = key(1, "per job; a pack has one", unit="nodes", source="sbatch --nodes")
    array_parallelism: Count = key(256, "jobs of one array that run at once", unit="jobs", source="sbatch --array")
    signal_lead: Annotated[int, Field(ge=1)] = key(
        300,
        "between the warning (USR2) and the limit, until saves of the stage's runs were measured; then four times the "
        "longest save and half a minute, at least a minute",
        unit="s",
        source="sbatch --signal",
    )
    flags: Flags = key({}, "as slurm.flags, for this stage alone", source="sbatch")

    @property
    def tasks_per_node(self) -> int:
        """Tasks of a job that trains."""
        return max(1, self.gpus)

    @property
    def ranks(self) -> int:
        """Processes that train one run together."""
        return self.nodes * self.tasks_per_node


class SlurmProfile(_Jobs):
    """What all jobs of a cluster share."""

    partition: Line = key("", 'where jobs run; "": the cluster\'s default', source="sbatch --partition")
    account: Line = key("", 'the project that pays; "": your default one', source="sbatch --account")
    setup: tuple[str, ...] = key(
        (), "shell commands that run before each job", source="ours: nothing is needed where hpcseg is on a shared disk"
    )
    container: Line = key(
        "",
        'command before the job\'s Python, such as "apptainer exec --nv --bind /scratch hpcseg.sif"; "": none',
        source="ours: hpcseg is in the image, and in the same version on the login node",
    )
    python: Line = key(
        "",
        'what starts Python in a job; "": the Python that runs hpcseg, in a container `python`',
        source="ours: nothing has to be activated in a job",
    )
    exclude: tuple[Line, ...] = key(
        (),
        "nodes that get no job; those that failed in the last day are left out by themselves",
        source="sbatch --exclude",
    )
    flags: Flags = key(
        {},
        "any other flag, without dashes: true for one without a value, false takes it away (not requeue, export); one "
        'that a key stands for replaces it (gpus-per-node = "a100:1"); not those that say which jobs there are (array, '
        "dependency, …)",
        source="sbatch",
    )
    budgets: Budgets = Budgets()
    pack: StageResources = StageResources(gpus=0, time=12 * 60)
    pretrain: StageResources = StageResources()
    label: StageResources = StageResources(time=4 * 60)
    train: StageResources = StageResources(time=48 * 60)

    def of(self, stage: str) -> StageResources:
        """Resources of one stage."""
        resources: StageResources = getattr(self, stage)
        return resources

    def ranks_of(self, stage: str) -> int:
        """Processes of a job of one stage; a pack has one."""
        return 1 if stage == "pack" else self.of(stage).ranks

    def asks(self, stage: str) -> dict[str, Any]:
        """All that jobs of one stage ask for, by dotted key; as JSON values."""
        shared: dict[str, Any] = self.model_dump(mode="json", exclude={*STAGES})
        own: dict[str, Any] = self.of(stage).model_dump(mode="json")
        return {f"slurm.{name}": value for name, value in shared.items()} | {
            f"slurm.{stage}.{name}": value for name, value in own.items()
        }

    @property
    def job_python(self) -> str:
        """Shell command that starts the Python of a job."""
        if self.container:
            return f"{self.container} {self.python or 'python'}"
        return self.python or word(sys.executable)

    @property
    def script_python(self) -> str:
        """Shell command that starts a Python with hpcseg beside the job, where Slurm's tools are: in no container."""
        return word(sys.executable) if self.container else self.job_python

    @field_validator("pack")
    @classmethod
    def _packs_on_one_node(cls, pack: StageResources) -> StageResources:
        if pack.nodes > 1:
            raise ValueError("a pack is one process: give it one node, and more cpus")
        return pack


class Profile(Section):
    """A profile file."""

    local: LocalProfile = LocalProfile()
    slurm: SlurmProfile = SlurmProfile()

    def staged(self, folder: str | None) -> Profile:
        """The same, with stores copied to `folder` of the node; None: as the profile says.

        A relative folder begins at the current one.
        """
        if folder is None:
            return self
        update = {"stage": stage_folder(folder)}
        return Profile(local=self.local.model_copy(update=update), slurm=self.slurm.model_copy(update=update))


def read_profile(name: str | None, on: Literal["local", "slurm"]) -> Profile:
    """Read a profile: a file, by the name of one in `jobs/`, or by that of one that comes with hpcseg.

    None: `jobs/<on>.toml`, or the defaults without it.

    Raises:
        BadInput: no such profile, or a key or value is wrong; the message names file, line and key. Or it is for Slurm,
            was found and not named, and another user may have written it.
    """
    path = PROFILES / f"{on}.toml" if name is None else Path(name)
    if name is None and not path.exists():
        return Profile()
    if name is None and on == "slurm":  # its commands are executed, and nobody has named it
        require_own_file(path.absolute(), f"name it, --jobs {path}, if it may say what jobs execute")
    if not path.is_file():
        own = PROFILES / f"{name}.toml"
        found = own if own.exists() else find_shipped(path, "jobs")
        if found is None:
            there = ", ".join(sorted(one.stem for one in PROFILES.glob("*.toml"))) or "none"
            raise BadInput(
                f"{name}: no such job profile; name a file, one of {PROFILES.absolute()}: {there}, or one of hpcseg's "
                f"own: {', '.join(names_of('jobs'))}"
            )
        path = found
    source = read_toml(path)
    if source.data.keys() & {*TABLES}:
        raise BadInput(f"{path}: is a sweep file, and no job profile; hpcseg sweep {word(path)} takes it")
    try:
        return Profile.model_validate(source.data)
    except ValidationError as error:
        key, message = explain(error, _known())
        table, _, rest = key.partition(".")
        raise BadInput(f"{source.where(table, 0, rest)}: {message} (hpcseg keys {table or 'slurm'})") from None


def _known() -> set[str]:
    """Keys of a profile and the tables that they are in."""
    keys = {key.name for key in keys_of(Profile)}
    return keys | {name.rpartition(".")[0] for name in keys}


def stage_folder(folder: str) -> str:
    """A folder of the command line as it is recorded: absolute, unless it begins with ~ or a variable of the job."""
    return folder if not folder or folder.startswith(("~", "$")) else os.path.abspath(folder)  # noqa: PTH100  (as typed)


def resolve(profile: LocalProfile, *, runs: int, packs: int, cores: int, gpus: int, memory_gib: float) -> LocalProfile:
    """Fill in what the profile leaves open, from the machine and the size of the whole sweep. Pure.

    What is already done does not count: a run that is repeated gets the threads that it had.

    Args:
        profile: as read.
        runs: training runs of the sweep.
        packs: packs of the sweep.
        cores: CPU cores that this process may use.
        gpus: GPUs that this process may use.
        memory_gib: that this process may use.

    Raises:
        BadInput: a job has more ranks than there are GPUs.
    """
    ranks = profile.ranks
    if 0 < gpus < ranks:
        raise BadInput(f"local.ranks = {ranks}: this machine has {gpus} GPUs, and each rank needs one; set local.ranks")
    by_memory = max(1, int(memory_gib / GIB_PER_SLOT))
    slots = profile.slots
    if slots == 0 and profile.threads:
        slots = max(1, cores // (profile.threads * ranks))
    if slots == 0:
        slots = gpus // ranks or max(1, min(cores // ranks, runs, by_memory))
    threads = profile.threads or max(1, cores // (slots * ranks))
    workers = profile.pack_workers or max(1, min(by_memory, cores // max(1, min(slots, packs))))
    return profile.model_copy(update={"slots": slots, "threads": threads, "pack_workers": workers})
