"""A wheel in a fresh environment and an empty folder: what it holds, what an index shows of it, and that it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://example.org/lab/hpcseg"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
# The demonstration, made so small that it takes seconds.
SMALL = {
    **{"strategy": "baseline", "labelled": 2, "fold": 0, "patches.size": 16, "network.levels": 2, "network.maps": 4},
    **{f"training.{key}": 2 for key in ("epochs", "steps", "validation_steps", "batch")},
}
INSTALLERS = {  # of a wheel, without what it needs, into the environment at `env`; those that are here are tried
    "pip": "{python} -m pip --python {env}/bin/python install --quiet --no-deps --no-index {wheel}",
    "uv": "uv pip install --quiet --no-deps --offline --python {env}/bin/python {wheel}",
    "pipx": "pipx install --quiet --force --pip-args=--no-deps {wheel}",
}


def run(command: Sequence[str | Path], folder: Path, **more: str) -> str:
    """Standard output of a command that ends well; of this project's environment it knows nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(folder: Path, kind: str, source: Path = ROOT) -> Path:
    """Build an sdist or a wheel of a copy of the project, where nothing of an earlier build lies."""
    copy = folder / "copy"
    for name in ("hpcseg", "sweeps", "jobs"):
        shutil.copytree(source / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(source / name, copy)
    run([sys.executable, "-c", BUILD.format(kind), folder], copy, HPCSEG_REPOSITORY=f"{REPOSITORY}.git")
    (made,) = (path for path in folder.iterdir() if path.is_file())
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


def borrow_packages(site: Path) -> None:
    """Let an environment see the packages that are installed here, but not this checkout."""
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])


def site_of(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


def held(wheel: Path, folder: str) -> dict[str, bytes]:
    """Files of a folder of the package, by their path in it."""
    with zipfile.ZipFile(wheel) as file:
        start = f"hpcseg/{folder}/"
        return {name.removeprefix(start): file.read(name) for name in file.namelist() if name.startswith(start)}


@pytest.mark.parametrize("folder", ["sweeps", "jobs"])
def test_it_holds_all_sweep_files_splits_and_profiles(wheel: Path, folder: str) -> None:
    files = {path: path.read_bytes() for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert held(wheel, f"shipped/{folder}") == {
        path.relative_to(ROOT / folder).as_posix(): content for path, content in files.items()
    }


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "hpcseg"], ROOT).splitlines()
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert [name for name in listed if name not in names and not (ROOT / name).is_symlink()] == []


def test_an_index_can_show_its_pictures_and_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (one for one in file.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(file.read(name))
    assert metadata.description is not None and metadata.project_urls is not None
    assert metadata.project_urls["Repository"] == REPOSITORY
    links = re.findall(r"\]\(([^)]*)\)", metadata.description)
    assert [link for link in links if not link.startswith("https://")] == []
    for link in (one for one in links if one.startswith(REPOSITORY)):
        _, kind, _, path = link.removeprefix(REPOSITORY).split("/", 3)
        assert (ROOT / path.partition("#")[0]).exists() and kind == ("raw" if path.endswith(".png") else "blob")


def test_sweeps_are_found_by_name_where_no_clone_is(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env")
    site = site_of(tmp_path / "env")
    borrow_packages(site)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    (folder := tmp_path / "empty").mkdir()
    command = [str(tmp_path / "env" / "bin" / "python"), "-m", "hpcseg"]
    assert "paper" in {one["name"] for one in json.loads(run([*command, "sweeps", "--json"], folder))}
    run([*command, "sweep", "--copy", "hippocampus", "my.toml"], folder)
    assert (folder / "my.toml").read_bytes() == (ROOT / "sweeps" / "hippocampus.toml").read_bytes()
    assert (folder / "splits" / "hippocampus.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_study_from_an_empty_folder(
    wheel: Path, tmp_path: Path, installer: str, storm: Callable[[int, int], int]
) -> None:
    if not storm(0, 1):
        pytest.skip("half a minute: with --all")
    if installer != "pip" and shutil.which(installer) is None:
        pytest.skip(f"no {installer} here")
    environment = tmp_path / ("pipx/venvs/hpcseg" if installer == "pipx" else "env")
    venv.create(environment)
    borrow_packages(site_of(environment))  # pipx looks for them
    (folder := tmp_path / "empty").mkdir()
    words = INSTALLERS[installer].format(python=sys.executable, env=environment, wheel=wheel)
    own = {
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
    }
    run(["sh", "-c", words], folder, **own)

    def hpcseg(*arguments: str) -> str:
        return run([environment / "bin" / "hpcseg", *arguments], folder, OMP_NUM_THREADS="1")

    hpcseg("phantom", "data/Phantoms", "--training", "6", "--test", "1", "--size", "48")
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    hpcseg("sweep", "demo", "--jobs", "gpu", "--plan", *settings)
    hpcseg("sweep", "demo", "--on", "local", "--jobs", "local", *settings)
    assert {line["state"] for line in json.loads(hpcseg("status", "--json"))} == {"done"}
    assert "results/demo" in hpcseg("collect")
    page = Path(folder, hpcseg("report").split()[-1])
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (model,) = folder.glob("runs/train/*")
    (scan,) = folder.glob("data/Phantoms/imagesTs/*.nii.gz")
    mask = hpcseg("segment", str(model), str(scan), "--to", "masks").strip()
    assert (folder / mask).stat().st_size
