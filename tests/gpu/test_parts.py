"""Every part of `make gpu`, rehearsed on a CPU at toy sizes: the numbers mean nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu.material import write_store
from tests.gpu.parts import ALL, STUDY, TESTS, Part
from tests.gpu.report import STEM
from tests.gpu.running import Place
from tests.gpu.sizes import PAPER, TINY, Sizes

FIGURES = {
    "ceilings.measure": ("ceiling_copy_gbs",),
    "steps.measure": ("validation_step_ms",),
    "loading.gather": ("gather_ms",),
    "loading.busy": ("busy_resident", "busy_streamed", "epoch_resident_ms"),
    "decoder.measure": ("decoder_ratio_gpu",),
    "steps.strategies": ("autoencoder1_ms", "multitask_ms"),
    "steps.exact": ("step_float32_ms",),
    "study.measure": ("dsc_float32",),
}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("gpu")
    write_store(folder, TINY)
    return Place("cpu", float("inf"), str(folder), str(folder))


def item(part: Part) -> object:
    long = part.name == "steps.compiled"
    return pytest.param(part, id=part.name, marks=pytest.mark.skipif(long, reason="compiles for minutes"))


@pytest.mark.parametrize("part", [item(part) for part in ALL if part is not TESTS])
def test_part(part: Part, where: Place) -> None:
    found = where.measure(replace(part, budget_s=float("inf")), where.machine())
    few = [line for line in found.late if part is STUDY and "2 seeds" in line]  # of a 16-bit type that this CPU has
    assert (found.state, found.failed, found.late) == ("done", [], few)
    assert found.tables or part.name == "steps.measure", "a CPU may have no 16 bits"
    assert all("instructions" in reason for reason in found.missing), found.missing
    assert all(found.figures[name] > 0 or name.startswith("dsc") for name in FIGURES.get(part.name, ()))
    if part is STUDY:
        assert found.tables[0].rows[0][0] == "float32"
        assert not any(name.endswith("_margin") for name in found.figures), "of two seeds there is no spread"
    if part.name == "loading.busy":
        assert (Path(where.docs) / STEM / "trace-resident.json.gz").stat().st_size > 100


@pytest.mark.parametrize("sizes", [PAPER, TINY])
def test_sizes_are_those_of_the_configuration(sizes: Sizes) -> None:
    config, shape = sizes.config, sizes.shape()
    assert (shape.geometry.patch, shape.geometry.kernel) == (config.patches.size, config.network.kernel)
    assert (shape.geometry.levels, shape.lattice) == (config.network.levels, config.patches.lattice)
    assert (shape.maps, sizes.batch) == (config.network.maps_per_level, config.training.batch)
    assert config.autoencoder.winners == PAPER.decoder.winners
