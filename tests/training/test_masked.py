"""Masked pretraining: what is hidden, what that costs, and what becomes of it in fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpcseg.config import AutoencoderConfig
from hpcseg.errors import BadInput, Interrupted
from hpcseg.networks.losses import masked_error
from hpcseg.patches.blocks import blocks_along
from hpcseg.patches.geometry import FovealGeometry, PaddedGeometry, PatchGeometry
from hpcseg.paths import MODEL_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.study.keys import parse_config
from hpcseg.training import stages
from hpcseg.training.checkpoint import load_checkpoint, load_tensors
from hpcseg.training.control import Control
from hpcseg.training.loop import fit
from hpcseg.training.model import TrainedModel
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.strategies.masked import MaskedTask, mask_of
from tests.training.conftest import RECIPE
from tests.training.stopping import train_in_parts

NewRun = Callable[[str], Path]
UNET = {"network": {"kind": "unet", "levels": 2, "kernel": 3, "maps": 4}}


class Parts:
    """Sums over the parts of a minibatch, which come one after the other."""

    def __init__(self) -> None:
        self.total = torch.zeros(2)

    def __call__(self, own: Tensor) -> Tensor:
        self.total = self.total + own
        return self.total


@pytest.mark.parametrize("geometry", [FovealGeometry(72, 5, 4), FovealGeometry(40, 3, 3), PaddedGeometry.around(24, 3)])
def test_a_block_is_hidden_whole_at_the_same_place_on_every_level(geometry: PatchGeometry) -> None:
    block = 16
    finest, *others = blocks_along(geometry, block)
    assert finest.unique_consecutive(return_counts=True)[1][1:-1].eq(block).all()
    for level, coarse in enumerate(others, start=1):
        first = [geometry.origins[level] + (voxel << level) - geometry.origins[0] for voxel in range(len(coarse))]
        for start, own in zip(first, coarse.tolist(), strict=True):
            below = finest[max(start, 0) : max(start + (1 << level), 0)]
            assert all(other == own for other in below.tolist())


def test_a_mask_is_the_product_of_the_axes_blocks() -> None:
    masked_BNNN = torch.rand(2, 3, 3, 3) < 0.5
    places = torch.tensor([0, 0, 1, 2, 2])
    mask = mask_of(masked_BNNN, places)
    assert mask.shape == (2, 1, 5, 5, 5)
    assert mask[1, 0, 0, 2, 4] == masked_BNNN[1, 0, 1, 2] and mask[0, 0, 3, 1, 1] == masked_BNNN[0, 2, 0, 0]


def test_the_loss_is_the_mean_of_masked_voxels_over_all_parts() -> None:
    torch.manual_seed(0)
    made, image = torch.randn(3, 1, 4, 4, 4), 2 * torch.randn(3, 1, 4, 4, 4)
    mask = torch.rand(3, 1, 4, 4, 4) < 0.3
    for config, of in (
        (AutoencoderConfig(loss="l2"), lambda e: e**2 / 2),
        (AutoencoderConfig(huber_delta=0.5), lambda e: torch.where(e.abs() < 0.5, e**2 / 2, 0.5 * (e.abs() - 0.25))),
    ):
        expected = of((made - image)[mask]).mean()
        torch.testing.assert_close(masked_error(config, made, image, mask), expected)
        parts = Parts()
        for part in (slice(0, 1), slice(1, 3)):
            whole = masked_error(config, made[part], image[part], mask[part], parts)
        torch.testing.assert_close(whole, expected)
    assert float(masked_error(AutoencoderConfig(), made, image, torch.zeros_like(mask))) == 0.0


@pytest.mark.parametrize("changes", [{}, UNET])
def test_the_network_is_shown_nothing_of_what_it_is_asked_for(
    changes: dict[str, Any],
    new_run: NewRun,
    pretrain_spec: Callable[..., PretrainSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[MaskedTask] = []

    def watched(task: Any, *rest: Any) -> Any:
        seen.append(task)
        return fit(task, *rest)

    monkeypatch.setattr(stages, "fit", watched)
    run = new_run("run")
    shares: list[float] = []

    class Watching(Control):
        def should_stop(self) -> bool:
            task = seen[0]
            with closing(task.batches(3)) as batches, torch.no_grad():
                patches, masked = next(batches)
                again, _ = next(task.batches(3))
                assert all(map(torch.equal, patches.images, again.images))
                shares.append(float(masked.float().mean()))
                masks = [mask_of(masked, places) for places in task._places]
                _, losses = task.losses((patches, masked))
                shown: list[Tensor] = []
                hook = task.network.register_forward_pre_hook(lambda _, inputs: shown.extend(inputs[0]))
                task.losses((patches, masked))
                hook.remove()
                for image, mask, given in zip(patches.images, masks, shown, strict=True):
                    assert not given[mask].any() and torch.equal(given[~mask], image[~mask])
                return bool(losses)

    with pytest.raises(Interrupted):
        train(run, pretrain_spec(None, **changes), Watching(run))
    assert 0.3 < shares[0] < 0.7


@pytest.mark.parametrize("changes", [{}, UNET])
def test_fine_tuning_begins_with_all_but_the_last_convolution_and_freezes_nothing(
    changes: dict[str, Any],
    runs: Path,
    new_run: NewRun,
    train_spec: Callable[..., TrainSpec],
    pretrain_spec: Callable[..., PretrainSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = new_run("before"), new_run("after")
    train(before, pretrain_spec(None, **changes), Control(before))
    weights = load_tensors(before / MODEL_FILE)["weights"]
    assert weights["classifier.weight"].shape[0] == 1
    with pytest.raises(BadInput, match=r"holds a pretrained network, which does not segment"):
        TrainedModel.load(before)
    start: dict[str, Tensor] = {}

    def watched(task: Any, *rest: Any) -> Any:
        start.update({name: value.clone() for name, value in task.network.state_dict().items()})
        head, tuned = task.optimizers["segmentation"].param_groups
        assert (head["lr"], tuned["lr"]) == (3e-3, pytest.approx(3e-4))
        assert len(head["params"]) == 2 and len(tuned["params"]) == len(list(task.network.parameters())) - 2
        assert all(parameter.requires_grad for parameter in task.network.parameters())
        return fit(task, *rest)

    monkeypatch.setattr(stages, "fit", watched)
    spec = train_spec(
        "masked", (before.relative_to(runs) / MODEL_FILE,), masked={"block": 4, "fine_tune_share": 0.1}, **changes
    )
    train(after, spec, Control(after))
    assert all(torch.equal(start[name], w) for name, w in weights.items() if not name.startswith("classifier."))
    assert start["classifier.weight"].shape[0] == 2
    assert TrainedModel.load(after).network(torch.device("cpu")) is not None


@pytest.mark.parametrize("stops", [[1] * 7, [3, 2]])
def test_a_masked_pretraining_goes_on_to_the_bit(
    stops: list[int], new_run: NewRun, pretrain_spec: Callable[..., PretrainSpec]
) -> None:
    spec = pretrain_spec(None, augmentation=RECIPE["augmentation"])
    whole, parts = new_run("whole"), new_run("parts")
    train(whole, spec, Control(whole))
    train_in_parts(parts, spec, stops)
    assert compare(whole, parts) is None
    assert load_checkpoint(whole) is not None


def test_blocks_that_would_cut_a_coarse_voxel_are_refused() -> None:
    assert parse_config(["strategy=masked", "masked.block=24"])
    with pytest.raises(BadInput, match=r"masked\.block = 12 is no multiple of 8, the edge of a voxel at the coarsest"):
        parse_config(["strategy=masked", "masked.block=12"])
