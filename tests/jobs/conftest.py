"""Fixtures that plan tiny studies, shared with the room sweeps."""

from tests.sweeps.conftest import plan_packs, plan_study, wait_for_fixture, write_sweep

__all__ = ["plan_packs", "plan_study", "wait_for_fixture", "write_sweep"]
