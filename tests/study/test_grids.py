from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.study.grids import expand
from hpcseg.study.identity import canonical, relevant
from hpcseg.study.keys import nest
from hpcseg.study.sweepfile import Grid, Sweep, read_sweep
from hpcseg.study.tables import Heading
from hpcseg.study.tomlfile import TomlFile

VALUES: dict[str, list[Any]] = {
    "strategy": ["baseline", "transfer", "multitask"],
    "labelled": [1, 2, "all"],
    "seed": [0, 1, 300],
    "fold": [0, 1],
    "training.epochs": [1, 2],
    "training.learning_rate": [1, 1.0, 1e-3],
    "network.maps": [32, [1, 2, 3, 4]],
    "preprocessing.spacing": ["median", 2, [1.0, 2.0, 3.0]],
    "data.foreground": [[1], [[1], [2]]],
}
SETTINGS = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in VALUES.items()})
AXES = st.fixed_dictionaries(
    {}, optional={key: st.lists(st.sampled_from(values), min_size=1, max_size=2) for key, values in VALUES.items()}
)


def sweep_of(run: dict[str, Any], *axes: dict[str, list[Any]]) -> Sweep:
    grids = tuple(Grid(f"grid{number}", one, number) for number, one in enumerate(axes))
    return Sweep(TomlFile(Path("s.toml"), "", {}), Heading(name="s"), run, grids, (), (), {})


@given(run=SETTINGS, axes=AXES)
def test_a_cell_is_what_its_settings_give_when_read_at_once(run: dict[str, Any], axes: dict[str, list[Any]]) -> None:
    cells = expand(sweep_of(run, axes))
    for cell in cells:
        whole = RunConfig.model_validate(nest({**run, **cell.axes}))
        assert cell.config == whole
        assert cell.config.model_dump_json() == whole.model_dump_json()
    product = 1
    for values in axes.values():
        product *= len(values)
    assert len(cells) == product


def test_cells_share_the_sections_that_they_have_in_common() -> None:
    axes = {"training.epochs": [1, 2], "seed": [0, 1], "network.levels": [2, 3]}
    configs = [cell.config for cell in expand(sweep_of({"patches.size": 12}, axes))]
    assert len({id(config.patches) for config in configs}) == 1
    assert len({id(config.training) for config in configs}) == 2
    assert len({id(config.network) for config in configs}) == 2


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("[run]\nmultitask.levels = 3\nnetwork.levels = 1\n", ()),
        ("[run]\nnetwork.levels = 1\n[[grid]]\nmultitask.levels = [2, 3]\n", ()),
        ("[run]\nnetwork.levels = 1\n", ("multitask.levels=3",)),
        ("[run]\nnetwork.levels = 1\n", ("multitask.levels=[2, 3]",)),
    ],
)
def test_what_a_strategy_does_not_read_refuses_none_of_its_runs(
    write_sweep: Callable[[str], Path], text: str, overrides: Sequence[str]
) -> None:
    path = write_sweep(text)
    configs = [cell.config for cell in expand(read_sweep(path, [*overrides, "strategy=baseline"]))]
    assert len({canonical(relevant(config)) for config in configs}) == 1
    with pytest.raises(BadInput, match=r"multitask.levels = [23] exceeds network.levels = 1"):
        expand(read_sweep(path, [*overrides, "strategy=[baseline, multitask]"]))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("training.epochs = [1, 0]", r":5: training.epochs = 0 is not allowed"),
        ("fold = [0, 7]", r":5: fold 7 does not exist"),
        ("strategy = 'multitask'\nnetwork.levels = [4, 1]", r"multitask.levels = 2 exceeds network.levels = 1"),
        ("seed = ['a']", r":5: seed = 'a' is not allowed"),
        ("preprocessing.percentiles = [[99.5, 0.5]]", r"\[99.5, 0.5\] is not .* of which the second is larger"),
        ("preprocessing.percentiles = [[0.5, 100.5]]", r"100.5 is not allowed: should be less than or equal to 100"),
        ("preprocessing.window = [[295, -155]]", r"\[295, -155\] is not .* of which the second is larger"),
        ("preprocessing.pyramid_clip = [[400, -200]]", r"\[400, -200\] is not .* of which the second is larger"),
        ("inference.tile = 1024", r"should be less than or equal to 512"),
        ("strategy = 'transfer'\nautoencoder.winners = 4097", r":6: autoencoder.winners = 4097: .* has 4096 voxels"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_line(
    write_sweep: Callable[[str], Path], grid: str, message: str
) -> None:
    path = write_sweep(f'[run]\ndata.dataset = "D"\n[[grid]]\nname = "a"\n{grid}\n')
    with pytest.raises(BadInput, match=message):
        expand(read_sweep(path))
