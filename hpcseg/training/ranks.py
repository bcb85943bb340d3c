"""The processes ("ranks") that train one run together: each reads its share of a minibatch, all make the same update.

Rank r of W takes the slots r, r + W, ... of every minibatch, which stays as it is. What couples the samples of a
minibatch is summed over the ranks: batch norms' statistics (`hpcseg.training.norm`), the sums in the losses, the
gradients. Every rank receives the same sums to the bit, so losses, weights, schedules and decisions agree on all of
them, and equal those of one rank to rounding.

A process that is alone is a group of one: then nothing is sent, and torch.distributed is not imported.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from hpcseg.errors import BadInput, Interrupted, RankLost
from hpcseg.files import read_json, write_json
from hpcseg.paths import MEETING_FILE
from hpcseg.training.liveness import Liveness
from hpcseg.training.rank_info import RankInfo

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

WAIT_S = 30 * 60.0  # for a rank that gives no sign, e.g. while it copies stores; one that dies is noticed at once
CPU = torch.device("cpu")
_POLL_S = 0.05
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """The group, seen from one of its ranks; made by `joined`.

    Every method but the properties is called by all ranks alike, in the same order.

    Attributes:
        rank, world: see `RankInfo`.
        device: where tensors lie that are sent.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """This rank's slots of a minibatch."""
        return slice(self.rank, None, self.world)

    @property
    def reduce(self) -> Callable[[Tensor], Tensor] | None:
        """What losses take for minibatches that are spread over ranks, see `sum`; None for a rank that is alone."""
        return self.sum if self.world > 1 else None

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, differentiable for a loss that every rank computes from it alike.

        The loss then counts once, and a gradient is this rank's part of the whole one: `sum_gradients` adds them up.
        """
        if self.world == 1:
            return tensor
        total: Tensor = _Sum.apply(tensor, self)  # type: ignore[no-untyped-call]
        return total

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a contiguous tensor by its sum over the ranks, and return it; not differentiable.

        Raises:
            RankLost: another rank has ended or does not answer.
        """
        if self.world > 1:
            import torch.distributed as dist

            with _answered(self):
                dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients, which all ranks have of the same parameters, by their sums."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
        sums = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.world == 1 else bool(self.add_up(torch.tensor(int(flag), device=self.device)))

    def count(self, flag: bool) -> Tensor:
        """On how many ranks the flag is set, one number on the device; between GPUs nobody waits for it."""
        return self.add_up(torch.full((1,), float(flag), device=self.device))  # made there, not copied

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def of_leader(self, make: Callable[[], _Value]) -> _Value:
        """What `make` returns on rank 0, where alone it is called; tensors, numbers, strings, nested lists and dicts.

        The other ranks get tensors on the CPU.
        """
        if self.world == 1:
            return make()
        import torch.distributed as dist

        value = make() if self.leads else None
        buffer = io.BytesIO()
        torch.save({"value": value}, buffer)
        size = torch.tensor(len(buffer.getvalue()), device=self.device)
        with _answered(self):
            dist.broadcast(size, 0)
            payload = torch.empty(int(size), dtype=torch.uint8, device=self.device)
            if self.leads:
                payload.copy_(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
            dist.broadcast(payload, 0)
        if not self.leads:
            content = io.BytesIO(payload.cpu().numpy().tobytes())
            value = torch.load(content, map_location="cpu", weights_only=True)["value"]
        return value  # type: ignore[return-value]

    def align(self, modules: Mapping[str, nn.Module]) -> None:
        """Give all ranks the weights of rank 0: unlike processors may round fresh ones differently."""
        if self.world > 1:
            for module in modules.values():
                module.load_state_dict(self.of_leader(module.state_dict))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something that stops where a rank is asked to; if it stops on one rank, then after it on all.

        Raises:
            Interrupted: it stopped on some rank.
        """
        stopped: Interrupted | None = None
        try:
            yield
        except Interrupted as error:
            stopped = error
        if self.any(stopped is not None):
            raise stopped or Interrupted("another rank was asked to stop; the same command goes on from there")


ALONE = Ranks()


@contextmanager
def joined(info: RankInfo, run: Path, should_stop: Callable[[], bool]) -> Iterator[Ranks]:
    """Meet the other processes of a job, and be one group with them: NCCL between GPUs, gloo between CPUs.

    Args:
        info: of this process.
        run: the run directory, which all ranks share.
        should_stop: asked while this process waits for the others.

    Raises:
        Interrupted: asked to stop before the group was complete.
        RankLost: the others did not come.
    """
    if info.world == 1:
        yield ALONE
        return
    import torch.distributed as dist

    store = _lead(info, run, should_stop) if info.leads else _follow(info, run, should_stop)
    device = CPU
    if torch.cuda.is_available():  # a node's GPUs are visible to all its tasks, or each task sees its own alone
        device = torch.device("cuda", info.local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=info.rank,
        world_size=info.world,
        timeout=timedelta(seconds=WAIT_S),
    )
    ranks = Ranks(info.rank, info.world, device)
    # gloo notices by itself that a rank has died; NCCL would wait for it.
    watch = Liveness(store, info.rank, info.world) if device.type == "cuda" else None
    try:
        yield ranks
        ranks.wait()
    except BaseException as error:
        if watch is not None:
            watch.end()
        if isinstance(error, Interrupted):  # on all ranks, by agreement
            dist.destroy_process_group()
        raise
    if watch is not None:
        watch.end()
    # After any other error the group is left as it is: others may wait in it, and end when this process does.
    dist.destroy_process_group()


def _lead(info: RankInfo, run: Path, should_stop: Callable[[], bool]) -> TCPStore:
    """Wait for the others at a free port of this host, which a file tells them; decide whether to begin."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(info.host, 0, info.world, is_master=True, wait_for_workers=False)
    write_json(run / MEETING_FILE, {"job": info.job, "host": info.host, "port": store.port})
    until = time.monotonic() + WAIT_S
    try:
        while store.add("here", 0) < info.world - 1:
            if should_stop():
                store.set("begin", "no")
                time.sleep(10 * _POLL_S)  # the others read it from this process
                raise Interrupted("stopped before all ranks were there; the same command goes on from there")
            _sleep(until, f"{store.add('here', 0) + 1} of {info.world} ranks came")
    finally:
        (run / MEETING_FILE).unlink(missing_ok=True)
    store.set("begin", "yes")
    return store


def _follow(info: RankInfo, run: Path, should_stop: Callable[[], bool]) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    until = time.monotonic() + WAIT_S
    while (address := _address(run / MEETING_FILE, info.job)) is None:
        if should_stop():
            raise Interrupted("stopped before rank 0 was there; the same command goes on from there")
        _sleep(until, "rank 0 did not come")
    try:
        store = TCPStore(*address, info.world, is_master=False)
        store.add("here", 1)
        while not store.check(["begin"]):
            _sleep(until, "not all ranks came")
        begin = store.get("begin")
    except RuntimeError as error:
        raise RankLost(f"rank {info.rank}: rank 0 ended before all ranks were there ({_line(error)})") from None
    if begin == b"no":
        raise Interrupted("rank 0 was asked to stop; the same command goes on from there")
    return store


def _address(path: Path, job: str) -> tuple[str, int] | None:
    """Where rank 0 of this job waits; None while it does not."""
    try:
        meeting: dict[str, Any] = read_json(path)
    except BadInput:
        return None
    return (meeting["host"], meeting["port"]) if meeting["job"] == job else None


def _sleep(until: float, what: str) -> None:
    if time.monotonic() > until:
        raise RankLost(f"{what} in {WAIT_S / 60:.0f} minutes; see the logs of the others")
    time.sleep(_POLL_S)


@contextmanager
def _answered(ranks: Ranks) -> Iterator[None]:
    """Turn what torch raises when another rank is gone into an error of our own."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"rank {ranks.rank} of {ranks.world}: another rank ended or does not answer; the last checkpoint is kept; "
            f"see the logs of the others ({_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Sum(torch.autograd.Function):
    """See `Ranks.sum`."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        return ranks.add_up(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
