"""Which of a job's processes this one is, and which runs several may share; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hpcseg.errors import BadInput
from hpcseg.spec import PretrainSpec, TrainSpec


@dataclass(frozen=True)
class RankInfo:
    """The place of one process among those that train a run together; by default it is alone.

    Attributes:
        rank: from 0; rank 0 leads: it alone writes to the run directory.
        world: number of processes.
        local: number of this process on its node, which says what GPU it takes.
        host: name or address under which the others reach this process.
        job: names the attempt, the same for all its processes and never used again for another.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    host: str = "127.0.0.1"
    job: str = ""

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0."""
        return self.rank == 0


def check_shares(spec: PretrainSpec | TrainSpec, world: int) -> None:
    """Refuse runs whose minibatches `world` processes cannot share with the outcome of one.

    Raises:
        BadInput: a minibatch has fewer patches than there are processes, or its patches are compared with each other.
    """
    if world == 1:
        return
    config = spec.config
    batches = {"training.batch": config.training.batch}
    if isinstance(spec, PretrainSpec):
        batches = {"autoencoder.batch": config.autoencoder.batch}
    elif config.strategy == "multitask":  # validates minibatches of training.batch
        batches["multitask.batch"] = config.multitask.batch
        batches["multitask.autoencoder_batch"] = config.multitask.autoencoder_batch
    for key, batch in batches.items():
        if batch < world:
            raise BadInput(
                f"{spec.id}: {key} = {batch} cannot be shared by {world} ranks; "
                f"let the job profile give a {spec.stage} job at most {batch} GPUs"
            )
    autoencoders = isinstance(spec, PretrainSpec) or config.strategy == "multitask"
    if autoencoders and config.autoencoder.lifetime > 0:
        raise BadInput(
            f"{spec.id}: autoencoder.lifetime compares all patches of a minibatch, which {world} ranks share; "
            f"let the job profile give a {spec.stage} job one GPU"
        )
