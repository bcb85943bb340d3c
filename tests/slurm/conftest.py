"""A real Slurm for the session, which each test finds empty and leaves so; and scripts in its commands' place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing_programs, running_cluster


@pytest.fixture
def slurm_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put shell scripts in front of Slurm's commands, by name; returns their folder."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def write(**scripts: str) -> Path:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    return write


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[Cluster]:
    """A cluster without accounting, for fixtures that outlive a test; tests ask for `slurm`."""
    yield from _running(accounting=False)


@pytest.fixture(scope="session")
def accounted_cluster() -> Iterator[Cluster]:
    """A cluster with accounting, for fixtures that outlive a test; tests ask for `accounted`."""
    yield from _running(accounting=True)


@pytest.fixture
def slurm(plain_cluster: Cluster) -> Iterator[Cluster]:
    """An empty cluster of three nodes (`running_cluster`), where sacct fails; skips where Slurm is not installed."""
    yield from _used(plain_cluster)


@pytest.fixture
def accounted(accounted_cluster: Cluster) -> Iterator[Cluster]:
    """The same with accounting; skips where slurmdbd or MariaDB is not installed."""
    yield from _used(accounted_cluster)


def _running(accounting: bool) -> Iterator[Cluster]:
    missing = missing_programs(accounting)
    if missing:
        packages = "slurmctld slurmd slurm-client" + (" slurmdbd mariadb-server" if accounting else "")
        pytest.skip(f"no Slurm here ({', '.join(missing)} missing): apt-get install {packages}")
    with running_cluster(accounting) as cluster:
        yield cluster


def _used(cluster: Cluster) -> Iterator[Cluster]:
    with cluster.current():
        try:
            yield cluster
        finally:
            cluster.clear()
