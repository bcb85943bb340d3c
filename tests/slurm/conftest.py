"""A real Slurm for the session; each test finds it empty, and leaves it so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcseg.study.plan import Plan
from tests.planned import run_here
from tests.slurm.cluster import Cluster, missing_programs, running_cluster
from tests.slurm.disturbed import plan_in


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


@pytest.fixture(scope="session")
def base(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The undisturbed run, trained here."""
    plan = plan_in(tmp_path_factory.mktemp("undisturbed"), tiny_dataset)
    run_here(plan, plan.stages)
    return plan


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
