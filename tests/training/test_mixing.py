"""Copy-paste on foveal patches: a mix of pyramids is the pyramid of a mix, and labels go with their voxels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpcseg.errors import BadInput
from hpcseg.patches.geometry import FovealGeometry, PaddedGeometry, PatchGeometry
from hpcseg.patches.reading import read_sample
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.paths import HISTORY_FILE
from hpcseg.spec import IGNORED, TrainSpec
from hpcseg.study.identity import train_id
from hpcseg.study.keys import parse_config
from hpcseg.training.control import Control
from hpcseg.training.mixing import CopyPaste
from hpcseg.training.stages import train
from hpcseg.training.strategies.teacher import TeacherConfig
from hpcseg.volumes.store import Store, StoredCase
from tests.patches.conftest import packed  # noqa: F401  (fixture)

CPU = torch.device("cpu")
DRAW = Draw(batch=3, seed=5, stream=Stream.AUTOENCODER)
EVERY = TeacherConfig(mix="copypaste", mix_pairs=1.0)


def boxes(case: StoredCase, geometry: PatchGeometry, origin_3: tuple[int, int, int]) -> list[Tensor]:
    """The levels of one patch as a minibatch of one, decoded."""
    codes = read_sample(case, geometry, origin_3, range(geometry.levels), None)
    return [torch.from_numpy(case.coding.decode(one))[None, None] for one in codes]


@pytest.mark.parametrize("origin_3", [(42, 46, 38), (41, 46, 39)])  # aligned with the stored levels, and not
@pytest.mark.parametrize(
    "geometry", [FovealGeometry(24, 3, 3), FovealGeometry(20, 5, 3), PaddedGeometry.around(24, 3)], ids=str
)
def test_a_mix_of_pyramids_is_mixing_at_full_resolution_and_pooling_afterwards_on_every_level(
    geometry: PatchGeometry,
    origin_3: tuple[int, int, int],
    packed: Callable[..., Store],  # noqa: F811
) -> None:
    noise = np.random.default_rng(1)
    one, other = (64.0 * noise.integers(-12, 12, (112, 110, 108)) for _ in range(2))  # means of all levels are whole
    mixing = CopyPaste(EVERY, geometry, DRAW, 1, CPU)
    cuboids_M32 = mixing.drawn(3)
    edge = 1 << (geometry.levels - 1)
    first = [origin + geometry.origins[-1] for origin in origin_3]
    cut = tuple(slice(o + edge * int(a), o + edge * int(b)) for o, (a, b) in zip(first, cuboids_M32[0], strict=True))
    inside = [(part.start - origin, part.stop - origin) for part, origin in zip(cut, origin_3, strict=True)]
    assert all(begin >= 0 and end <= geometry.patch for begin, end in inside)
    pasted, given = one.copy(), other.copy()
    pasted[cut], given[cut] = other[cut], one[cut]
    volumes = {"one": one, "other": other, "pasted": pasted, "given": given}
    store = packed({name: (volume, None) for name, volume in volumes.items()}, clip=None)
    read = {name: boxes(store.case(name), geometry, origin_3) for name in volumes}
    pairs = list(zip(read["one"], read["other"], strict=True))
    found = mixing.images(pairs, mixing.masks(cuboids_M32))
    for level, (own, first_of, second_of) in enumerate(zip(found, read["pasted"], read["given"], strict=True)):
        torch.testing.assert_close(own, torch.cat([first_of, second_of]), rtol=0, atol=1e-6)
        assert not torch.equal(own[:1], read["one"][level])
    alone = CopyPaste(EVERY.model_copy(update={"mix_levels": "finest"}), geometry, DRAW, 1, CPU)
    finest, *context = alone.images(pairs, alone.masks(cuboids_M32))
    assert torch.equal(finest, found[0])
    assert all(torch.equal(own, torch.cat(pair)) for own, pair in zip(context, pairs[1:], strict=True))


def test_a_label_goes_with_its_voxel_and_no_voxel_has_two() -> None:
    geometry = FovealGeometry(16, 3, 2)
    mixing = CopyPaste(EVERY, geometry, DRAW, 2, CPU)
    masks = mixing.masks(mixing.drawn(0))
    begin = -geometry.origins[0]
    target = slice(begin, begin + 16)
    truth, pseudo = torch.randint(0, 2, (2, 16, 16, 16)), torch.randint(2, 4, (3, 16, 16, 16))
    images = [torch.zeros(n, 1, *(geometry.inputs[0],) * 3) for n in (2, 3)]
    for image, label in zip(images, (truth, pseudo), strict=True):
        image[:, 0, target, target, target] = label.float()
    (mixed, *_) = mixing.images([(images[0], images[1])], masks[:1])
    true, own = mixing.labels(truth, pseudo, masks)
    assert ((true == IGNORED) ^ (own == IGNORED)).all()
    assert torch.equal(torch.where(true == IGNORED, own, true), mixed[:, 0, target, target, target].long())
    assert [int((part == IGNORED).sum()) for part in (true[0], true[1], own[2], own[3])] == [8**3] * 4
    assert torch.equal(own[4], pseudo[2])  # it has no partner


def test_cuboids_are_drawn_from_each_patch_s_own_counters_whoever_reads_it() -> None:
    geometry, section = FovealGeometry(24, 3, 3), TeacherConfig(mix="copypaste", mix_pairs=0.5, mix_size=0.4)
    whole = CopyPaste(section, geometry, DRAW, 5, CPU)
    drawn = torch.stack([whole.drawn(step) for step in range(40)])
    parts = [CopyPaste(section, geometry, replace(DRAW, part=slice(rank, None, 2)), 5, CPU) for rank in (0, 1)]
    for step in (0, 7):
        assert torch.equal(whole.drawn(step), drawn[step])
        assert all(torch.equal(part.drawn(step), drawn[step, rank::2]) for rank, part in enumerate(parts))
    edges = (drawn[..., 1] - drawn[..., 0]).unique(dim=2)
    assert edges.shape[2] == 1 and edges.unique().tolist() == [0, 2]  # 0.4 of 24 voxels, in blocks of 4
    assert 40 < int((edges > 0).sum()) < 80
    assert not whole.drawn(0, wanted=False).any() and len(CopyPaste(section, geometry, DRAW, 1, CPU).drawn(0)) == 1
    assert whole.drawn(0).shape == (3, 3, 2)


def test_nothing_is_mixed_before_pseudo_labels_count(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "steps": 2, "validation_steps": 1, "batch": 4}
    found = []
    for mix in ("none", "copypaste"):
        run = new_run(mix)
        teacher = {"mix": mix, "mix_pairs": 1.0, "supervised_steps": 2, "ramp_steps": 1, "confidence": 0.0}
        train(run, train_spec("teacher", training=settings, teacher=teacher), Control(run))
        found.append([json.loads(line)["losses"] for line in (run / HISTORY_FILE).open()])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1]["unlabelled"] != pytest.approx(found[1][1]["unlabelled"], rel=1e-5)


def test_keys_of_a_mix_are_read_and_checked_where_there_is_one() -> None:
    plain, sized = parse_config(["strategy=teacher"]), parse_config(["strategy=teacher", "teacher.mix_size=0.25"])
    mixed = parse_config(["strategy=teacher", "teacher.mix=copypaste"])
    assert train_id(plain, {}) == train_id(sized, {}) != train_id(mixed, {})
    small = ["strategy=teacher", "network.levels=3", "network.kernel=3", "patches.size=6"]
    parse_config(small)
    with pytest.raises(BadInput, match=r"patches\.size = 6: teacher\.mix wants 7 or more"):
        parse_config([*small, "teacher.mix=copypaste"])
