"""The whole step, and minibatches, on the device that there is: a GPU at the paper's sizes, else a CPU at toy sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpcseg.kernels import torch_alone
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.resident import ResidentCases
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.training.precision import be_deterministic
from hpcseg.training.tasks import SegmentationTask
from tests.gpu import planning, steps
from tests.gpu.accuracy import relative_error
from tests.gpu.device import machine_for
from tests.gpu.kit import Kit
from tests.gpu.loading import labelled_sources, precision
from tests.gpu.material import random_batch, write_store
from tests.gpu.sizes import PAPER, TINY

KIND = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 2
Gradients = dict[str, Tensor]
pytestmark = pytest.mark.gpu
on_gpu = pytest.mark.needs_gpu


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder: Path = tmp_path_factory.mktemp("on-device")
    large = replace(PAPER, volume_zyx=(130, 150, 170), volumes=2)
    sizes = TINY if KIND == "cpu" else replace(large, settings={"training": {"batch": BATCH}}, batch=BATCH)
    write_store(folder, sizes)
    return Kit(machine_for(KIND, 0.01), sizes, folder)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As training is."""
    be_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


def task_of(kit: Kit, stack: ExitStack, number: str) -> SegmentationTask:
    """With kernels as training chooses them, unless there are to be none."""
    task = steps.segmentation_task(kit, labelled_sources(kit, stack), steps.Way(number))
    planning.plan(kit, task)
    return task


def passed(kit: Kit, task: SegmentationTask, seed: int) -> tuple[float, Gradients]:
    """Loss and gradients of one minibatch."""
    number = getattr(torch, task.precision.convolutions)
    batch = random_batch(kit.sizes, BATCH, torch.float32, kit.machine.device, seed)
    batch.images = [image.to(number) for image in batch.images]
    losses = task.passes(batch)
    found = {name: p.grad.detach().clone() for name, p in task.network.named_parameters() if p.grad is not None}
    return float(losses["segmentation"]), found


def error(found: Gradients, reference: Gradients) -> float:
    """Of all gradients together, each by its own size."""
    each = [relative_error(found[name].cpu(), reference[name].cpu()) for name in reference]
    assert found.keys() == reference.keys()
    return sum(each) / len(each)


@pytest.mark.parametrize("seed", [0, 1])
def test_kernels_give_the_gradients_that_torch_gives(kit: Kit, stack: ExitStack, seed: int) -> None:
    number = precision(kit)
    with torch_alone():
        loss, reference = passed(kit, task_of(kit, stack, "float32"), seed)
        _, rounded = passed(kit, task_of(kit, stack, number), seed)
    own_loss, own = passed(kit, task_of(kit, stack, number), seed)
    assert own_loss == pytest.approx(loss, rel=2e-2)
    assert error(own, reference) <= 1.5 * error(rounded, reference) + 1e-3, "no worse than torch in the same type"


@pytest.mark.parametrize(
    "number", ["float32", pytest.param("bfloat16", marks=on_gpu), pytest.param("float16", marks=on_gpu)]
)
@pytest.mark.usefixtures("deterministic")
def test_a_step_repeated_gives_the_same_bits(kit: Kit, stack: ExitStack, number: str) -> None:
    task = task_of(kit, stack, number)
    loss, first = passed(kit, task, 0)
    again, second = passed(kit, task, 0)
    assert loss == again
    assert all(torch.equal(first[name], second[name]) for name in first)


@on_gpu
@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.usefixtures("deterministic")
def test_a_recorded_step_gives_the_bits_of_the_step(kit: Kit, stack: ExitStack, forked: bool) -> None:
    recorded, plain = (task_of(kit, stack, "bfloat16") for _ in range(2))
    batches = [random_batch(kit.sizes, BATCH, torch.bfloat16, kit.machine.device, seed) for seed in range(3)]
    recorded.graphed = steps.graphed(kit, recorded, batches[0], forked)
    for batch in batches:
        losses = [float(task.train_step(batch)["segmentation"]) for task in (recorded, plain)]
        assert losses[0] == losses[1]
    for own, other in zip(recorded.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("lattice", [4, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resident_and_streamed_minibatches_are_the_same_bits(
    kit: Kit, stack: ExitStack, lattice: int, dtype: torch.dtype
) -> None:
    sources, cases = labelled_sources(kit, stack), ResidentCases(kit.machine.device)
    draw = Draw(batch=3, seed=5, stream=Stream.TRAINING, lattice=lattice, dtype=dtype)
    share = kit.sizes.config.patches.foreground_share
    streamed, resident = (
        SegmentationBatches(own, kit.sizes.geometry, draw, foreground_share=share)
        for own in (sources, [source.on_device(cases) for source in sources])
    )
    for step in range(3):
        one, other = (batches.raw(step).to(kit.machine.device) for batches in (streamed, resident))
        assert all(torch.equal(*pair) for pair in zip(one.images, other.images, strict=True))
        assert one.label_BDHW is not None
        assert other.label_BDHW is not None
        assert torch.equal(one.label_BDHW, other.label_BDHW)
        assert one.images[0].dtype == dtype


@on_gpu
def test_memory_of_a_step_does_not_grow(kit: Kit, stack: ExitStack) -> None:
    task = task_of(kit, stack, "bfloat16")
    batch = random_batch(kit.sizes, BATCH, torch.bfloat16, kit.machine.device, 0)
    peaks = []
    for _ in range(3):
        kit.machine.forget_peak()
        for _ in range(3):
            task.train_step(batch)
        kit.machine.synchronize()
        peaks.append(kit.machine.peak_gb())
    assert peaks[2] == pytest.approx(peaks[1], rel=0.01)
