"""Strategies are found by name, hpcseg's own and those of other packages; the one of docs/strategies.md is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from setuptools import build_meta

from hpcseg import config as config_module
from hpcseg import registry
from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.screens.keys import matching
from hpcseg.spec import TrainSpec, read_spec
from hpcseg.study import keys
from hpcseg.training import strategy as strategy_module
from hpcseg.training.strategy import find_strategy, strategies, strategy_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
STUDY = (ROOT / "tests" / "study.toml").read_text(encoding="utf-8")
CACHES: tuple[Any, ...] = (
    *(registry.described, registry._brought, config_module._holder, config_module._section_type),
    *(strategy_module.strategies, keys.run_keys),
)
BROKEN = "import torch_of_another_version\n"
PLAIN = """
from hpcseg.sections import Section, key
from hpcseg.training.strategy import Strategy


class Keys(Section):
    share: float = key(0.5, "", source="ours: a test")


class Plain(Strategy[Keys]):
    name, label, section_type = "{name}", "Plain", Keys

    def task(self, inputs):
        raise NotImplementedError
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make a package that brings a strategy visible in this process."""

    def make(name: str, text: str, package: str = "other", module: str = "other_strategy") -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hpcseg.strategies]\n{name} = {module}:Plain\n")
        (tmp_path / f"{module}.py").write_text(text.replace("{name}", name))

    def forget() -> None:
        sys.modules.pop("other_strategy", None)
        for cache in CACHES:
            cache.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield make
    forget()


def test_strategies_are_described_without_torch() -> None:
    code = (
        "import sys; from hpcseg.training.strategy import strategies; print(*strategies()); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["baseline", "transfer", "multitask", "teacher", "masked", "selftrain"]


def test_a_configuration_holds_what_was_given_and_the_section_of_its_strategy() -> None:
    assert list(RunConfig(strategy="transfer").model_extra or ()) == ["transfer"]
    given = RunConfig.model_validate({"transfer": {"phi": 2.0}})
    assert find_strategy("transfer").section(given).phi == 2.0
    assert find_strategy("multitask").section(given).levels == 2  # its default
    assert RunConfig.model_validate_json(given.model_dump_json()) == given
    assert strategy_of(given).name == "baseline"


def test_another_package_s_strategy_has_keys_and_a_place_after_hpcseg_s_own(install: Install) -> None:
    install("mine", PLAIN)
    assert [*strategies()] == ["baseline", "transfer", "multitask", "teacher", "masked", "selftrain", "mine"]
    assert keys.parse_setting("mine.share=0.1") == ("mine.share", 0.1)
    with pytest.raises(BadInput, match=r"unknown key 'mine\.shares'; did you mean 'mine\.share'\?"):
        keys.parse_setting("mine.shares=0.1")
    with pytest.raises(BadInput, match=r"mine\.share = 'a' is not allowed: should be a number"):
        keys.parse_config(["mine.share='a'"])
    (group,) = matching("mine")["run"]
    assert [key.name for key in group.keys] == ["mine.share"]
    config = keys.parse_config(["strategy=mine"])
    assert strategy_of(config).section(config).share == 0.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "mine",
            BROKEN,
            r"strategy 'mine' of other 1\.0 cannot be used \(ModuleNotFoundError: .*'torch_of_an",
        ),
        ("mine", PLAIN.replace("{name}", "yours"), r"'mine' of other 1\.0 cannot be used \(TypeError: .* 'yours'\)"),
        ("mine", "class Plain: name, section_type = 'mine', None", r"'mine' of other 1\.0 cannot be used \(TypeError"),
        ("baseline", PLAIN, r"there are two strategies 'baseline', of hpcseg and of other 1\.0; uninstall one of them"),
        ("network", PLAIN, r"a strategy cannot be called 'network', which is a key of hpcseg"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(install: Install, name: str, text: str, message: str) -> None:
    install(name, text)
    with pytest.raises(BadInput, match=message) as raised:
        keys.run_keys()
    assert "\n" not in str(raised.value)


def test_two_packages_may_not_bring_strategies_of_one_name(install: Install) -> None:
    install("mine", PLAIN)
    install("mine", PLAIN, "another")
    with pytest.raises(BadInput, match=r"two strategies 'mine', of (an)?other 1\.0 and of (an)?other 1\.0; uninstall"):
        registry.names()


def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    known = "'baseline', 'transfer', 'multitask', 'teacher', 'masked' or 'selftrain'"
    with pytest.raises(BadInput, match=rf"should be {known}; did you mean 'multitask'\?"):
        keys.parse_config(["strategy=multi_task"])
    with pytest.raises(BadInput, match=r"there is no strategy 'transfr'; did you mean 'transfer'\?"):
        find_strategy("transfr")


def test_a_run_whose_strategy_is_not_here_says_so(tmp_path: Path, train_spec: Callable[..., TrainSpec]) -> None:
    spec = train_spec().model_dump(mode="json")
    spec["config"] |= {"strategy": "gone", "gone": {"share": 0.5}}
    (tmp_path / "run.json").write_text(json.dumps(spec))
    with pytest.raises(BadInput, match=r"run\.json: .*'selftrain'; 'gone' is of a package that is not installed here"):
        read_spec(tmp_path)


def test_the_strategy_of_the_page_runs_beside_the_baseline_from_a_package_of_its_own(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    texts = re.findall(r"```(?:toml|python)\n(.*?)```", PAGE, flags=re.DOTALL)
    project, module = texts
    assert sum(len(text.splitlines()) for text in texts) <= 80
    package = tmp_path / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(project)
    (package / f"{tomllib.loads(project)['tool']['setuptools']['py-modules'][0]}.py").write_text(module)
    with chdir(package):
        build_meta.prepare_metadata_for_build_wheel(".")  # as pip does: entry points are in a .dist-info beside it
    (tmp_path / "study.toml").write_text(STUDY)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{package}", "OMP_NUM_THREADS": "1"}

    def hpcseg(*arguments: str) -> Any:
        command = [sys.executable, "-m", "hpcseg", *arguments, "--json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    both = ("--set", "strategy=[baseline, noise]", "--set", "noise.sd=0.2", "--data", str(tiny_dataset.parent))
    assert not hpcseg("sweep", "study.toml", *both, "--on", "local")["failed"]
    status = hpcseg("status", "study")
    assert [(one["stage"], one["state"]) for one in status] == [(stage, "done") for stage in ("pack", "train", "train")]
    (table,) = hpcseg("collect", "study")["tables"]
    assert (table["columns"], table["baseline"]) == (["baseline", "noise"], "baseline")
    assert [cell["runs_present"] for cell in table["cells"]] == [1, 1]
    assert "Noise" in (tmp_path / "runs" / "results" / "study" / "main.md").read_text()
    history = (tmp_path / "runs" / "train" / status[2]["id"] / "history.jsonl").read_text()
    assert json.loads(history.splitlines()[0])["losses"].keys() == {"segmentation", "difference"}
    rehearsed = hpcseg("rehearse", status[2]["id"], "--epochs", "2", "--steps", "2", "--interruptions", "1")
    assert rehearsed["difference"] is None and len(rehearsed["interruptions"]) == 1
