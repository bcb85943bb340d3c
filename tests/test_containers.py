"""The recipes of images keep their rules: pinned, without root, made of files that there are, and both the same."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "apptainer.def").read_text(encoding="utf-8")
HADOLINT = Path(sys.executable).parent / "hadolint"
PINNED = r"python:\d+\.\d+\.\d+-slim-\w+"


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile and what follows each, continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def of_the_context(path: str) -> bool:
    """Whether a path of the repository exists and .dockerignore leaves it to the image."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    return (ROOT / path).exists() and any(fnmatch.fnmatch(path, pattern) for pattern in kept)


def faults_of_docker(text: str) -> list[str]:
    """Which rules a Dockerfile breaks."""
    found = instructions(text)
    bases = [shlex.split(rest)[0] for name, rest in found if name == "FROM"]
    users = [rest for name, rest in found if name == "USER"]
    copied = [word for name, rest in found if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]]
    ignored = [f"copies {path}, which is not there" for path in copied if not of_the_context(path)]
    rules = {
        "base without a version": all(re.fullmatch(PINNED, base) for base in bases),
        "two bases": len(set(bases)) == 1,
        "root": bool(users) and users[-1] not in {"root", "0"},
        "entry point": ("ENTRYPOINT", '["hpcseg"]') in found,
        "not pinned": all("--constraint" in rest or "torch==" in rest for rest in installs(rest for _, rest in found)),
    }
    return [rule for rule, kept in rules.items() if not kept] + ignored


def faults_of_apptainer(text: str) -> list[str]:
    """Which rules a definition file breaks."""
    base = re.search(r"^From: (\S+)$", text, re.MULTILINE)
    (files,) = re.findall(r"^%files\n((?: .*\n)*)", text, re.MULTILINE)
    copied = [line.split()[0] for line in files.splitlines()]
    rules = {
        "base without a version": base is not None and re.fullmatch(PINNED, base[1]) is not None,
        "entry point": '%runscript\n    exec hpcseg "$@"\n' in text,
        "not pinned": all("--constraint" in line or "torch==" in line for line in installs(text.splitlines())),
    }
    missing = [f"copies {path}, which is not there" for path in copied if not (ROOT / path).exists()]
    return [rule for rule, kept in rules.items() if not kept] + missing


def installs(lines: object) -> list[str]:
    """Every command that installs packages for Python."""
    return [part for line in lines for part in line.split("&&") if re.search(r"\bpip install\b", part)]  # type: ignore[attr-defined]


def test_both_recipes_keep_their_rules_and_are_of_the_same_base_files_and_torch() -> None:
    assert faults_of_docker(DOCKER) == []
    assert faults_of_apptainer(APPTAINER) == []
    (torch,) = set(re.findall(r"\bTORCH *\??= *([\d.]+)", DOCKER + APPTAINER + (ROOT / "Makefile").read_text()))
    assert torch
    (base,) = {*re.findall(r"^FROM (\S+)", DOCKER, re.MULTILINE), *re.findall(r"^From: (\S+)", APPTAINER, re.MULTILINE)}
    version = ".".join(base.removeprefix("python:").split(".")[:2])
    assert f'"Programming Language :: Python :: {version}"' in (ROOT / "pyproject.toml").read_text()
    for path in ("setup.py", "constraints.txt", "hpcseg", "sweeps", "jobs"):
        assert re.search(rf"^COPY .*\b{path}\b", DOCKER, re.MULTILINE) and f"    {path} /src/\n" in APPTAINER


@pytest.mark.parametrize(
    ("check", "text", "old", "new", "fault"),
    [
        (faults_of_docker, DOCKER, "FROM python:3.13.7-slim-bookworm\n", "FROM python\n", "base without a version"),
        (faults_of_docker, DOCKER, "USER 1000\n", "", "root"),
        (faults_of_docker, DOCKER, "USER 1000\n", "USER 1000\nUSER root\n", "root"),
        (faults_of_docker, DOCKER, "COPY jobs jobs", "COPY docs docs", "copies docs, which is not there"),
        (faults_of_docker, DOCKER, '["hpcseg"]', '["sh"]', "entry point"),
        (faults_of_docker, DOCKER, "--constraint /wheels/constraints.txt", "", "not pinned"),
        (faults_of_apptainer, APPTAINER, ":3.13.7-slim-bookworm", ":latest", "base without a version"),
        (faults_of_apptainer, APPTAINER, "    jobs /src/", "    job /src/", "copies job, which is not there"),
        (faults_of_apptainer, APPTAINER, "exec hpcseg", "exec python", "entry point"),
    ],
)
def test_a_recipe_that_breaks_a_rule_is_noticed(
    check: Callable[[str], list[str]], text: str, old: str, new: str, fault: str
) -> None:
    assert old in text
    assert fault in check(text.replace(old, new))


@pytest.mark.skipif(not HADOLINT.exists(), reason="no hadolint")
def test_hadolint_finds_nothing_and_would_find_something() -> None:
    def hadolint(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)

    assert (clean := hadolint(DOCKER)).returncode == 0, clean.stdout
    assert "DL3006" in hadolint("FROM python\n").stdout
