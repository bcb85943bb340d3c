from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.paths import STAGES
from hpcseg.runs.recovery import Budgets
from hpcseg.spec import Reading
from hpcseg.submit.profile import LocalProfile, Profile, SlurmProfile, StageResources, read_profile, resolve

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_the_projects_own_profiles_are_valid_and_say_the_defaults(name: str) -> None:
    assert read_profile(str(JOBS / f"{name}.toml"), "local").local == LocalProfile()


def test_the_slurm_profile_shows_every_key_with_its_default() -> None:
    written = tomllib.loads((JOBS / "slurm.toml").read_text())["slurm"]
    shown = Profile.model_validate({"slurm": written}).slurm
    own = {name for name, field in SlurmProfile.model_fields.items() if name not in {*STAGES}}
    assert own == {name for name in written if name not in {*STAGES}}
    assert {name: getattr(shown, name) for name in own} == {name: getattr(SlurmProfile(), name) for name in own}
    assert written["budgets"].keys() == Budgets.model_fields.keys()


def test_a_container_needs_no_python_to_be_named() -> None:
    assert SlurmProfile(container="apptainer exec x.sif").job_python == "apptainer exec x.sif python"
    assert SlurmProfile(python="ml python").script_python == SlurmProfile(python="ml python").job_python == "ml python"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("01:30:00", 90), ("2-0", 2880), ("1-01:30", 1530), ("1-0:0:1", 1441)],
)
def test_time_limits_are_read_in_slurms_notations(text: str, minutes: int) -> None:
    assert StageResources.model_validate({"time": text}).time == minutes


def test_a_profile_is_found_by_name_in_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_profile(None, "slurm") == Profile()
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "big.toml").write_text("[local]\nslots = 3\n")
    assert read_profile("big", "local").local.slots == 3


def test_what_jobs_execute_is_not_taken_from_a_file_that_others_may_write_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir(mode=0o755)
    path = tmp_path / "jobs" / "slurm.toml"
    path.write_text("[slurm]\nsetup = ['module load cuda']\n")
    path.chmod(0o644)
    monkeypatch.chdir(tmp_path)
    assert read_profile(None, "slurm").slurm.setup == ("module load cuda",)
    for place in (path, path.parent, tmp_path):
        mode = place.stat().st_mode
        place.chmod(0o777)
        with pytest.raises(BadInput, match=rf"^{place}: others may write here .*; name it, --jobs jobs/slurm.toml, if"):
            read_profile(None, "slurm")
        assert read_profile("jobs/slurm.toml", "slurm").slurm.setup and read_profile(None, "local") == Profile()
        place.chmod(mode)


def test_who_names_no_profile_is_shown_which_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    for name in ("small", "big"):
        (tmp_path / "jobs" / f"{name}.toml").touch()
    with pytest.raises(BadInput, match=r"nosuch: no such job profile; name a file, one of \S+/jobs: big, small, or"):
        read_profile("nosuch", "slurm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[local]\nslot = 3\n", "p.toml:2: unknown key 'local.slot'; did you mean 'local.slots'?"),
        ("[slurm.train]\ntime = 'long'\n", "p.toml:2: slurm.train.time: 'long' is no time limit"),
        ("[slurm.train]\ncpus = 0\n", "p.toml:2: slurm.train.cpus = 0 is not allowed: should be greater than or equal"),
        ("[slurm]\nstage = 'scratch'\n", "p.toml:2: slurm.stage: 'scratch' is no absolute path; begin it with"),
        ("[local]\ntier = 'vram'\n", "p.toml:2: local.tier = 'vram' is not allowed: should be 'auto', 'gpu', 'ram' or"),
        (
            "[slurm]\nkernels = 'cuda'\n",
            "slurm.kernels = 'cuda' is not allowed: should be 'auto', 'trial' or 'torch'",
        ),
        ("[local]\nranks = 0\n", "p.toml:2: local.ranks = 0 is not allowed: should be greater than or equal to 1"),
        ("[slurm.pack]\nnodes = 2\n", "p.toml:1: slurm.pack: a pack is one process: give it one node, and more cpus"),
        ("[slurm.flags]\narray = '0-3'\n", "slurm.flags: 'array' is set by hpcseg itself; remove it"),
        ("[slurm.train]\nflags = {job_name = 'x'}\n", "'job-name' is set by hpcseg itself; remove it"),
        (
            "[slurm.budgets]\nnodes = 2\n",
            "p.toml:2: unknown key 'slurm.budgets.nodes'; did you mean 'slurm.budgets.node'",
        ),
        (
            "[slurm]\ntimee = 60\n",
            "'slurm.timee'; did you mean 'slurm.label.time' or 'slurm.pack.time' or 'slurm.pretrain.time' or",
        ),
        ('[slurm]\npartition = "a\\nsrun x"\n', "slurm.partition: 'a\\nsrun x' has a line break"),
        ('[slurm]\nexclude = ["n1\\n"]\n', "slurm.exclude: 'n1\\n' has a line break"),
        ('[slurm.flags]\nqos = "a\\nb"\n', "slurm.flags: 'a\\nb' has a line break"),
        ('[slurm.flags]\n"qos\\nrm" = 1\n', "slurm.flags: 'qos\\nrm' is no flag of sbatch"),
        ("[slrum]\n", "p.toml:1: unknown key 'slrum'; did you mean 'slurm'?"),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_profile(str(path), "local")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_how_stores_are_read_is_set_for_each_kind_of_job_and_the_command_line_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.toml"
    path.write_text("[local]\nstage = '~/stores'\n[slurm]\nstage = '$SLURM_TMPDIR'\ntier = 'streamed'\n")
    profile = read_profile(str(path), "local")
    assert profile.staged(None) == profile
    assert profile.local.reading == Reading(stage="~/stores")
    assert profile.slurm.reading == Reading(stage="$SLURM_TMPDIR", tier="streamed")
    monkeypatch.chdir(tmp_path)
    for given, recorded in (("", ""), ("$X/a", "$X/a"), ("~", "~"), ("/s", "/s"), ("a/$X", f"{tmp_path}/a/$X")):
        assert profile.staged(given).local.reading == Reading(stage=recorded)
        assert profile.staged(given).slurm.reading == Reading(stage=recorded, tier="streamed")


def test_torch_alone_can_be_asked_for_in_each_kind_of_job_and_says_nothing_of_how_stores_are_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.toml"
    path.write_text("[local]\nkernels = 'torch'\n")
    profile = read_profile(str(path), "local").staged("/s")
    assert (profile.local.kernels, profile.slurm.kernels) == ("torch", "auto")
    assert profile.local.reading == Reading(stage="/s")


@pytest.mark.parametrize(
    ("profile", "machine", "expected"),
    [
        (LocalProfile(), {"runs": 12, "cores": 2}, LocalProfile(slots=2, threads=1, pack_workers=2)),
        (LocalProfile(), {"runs": 1, "cores": 2}, LocalProfile(slots=1, threads=2, pack_workers=2)),
        (
            LocalProfile(),
            {"runs": 125, "cores": 64, "memory_gib": 32.0},
            LocalProfile(slots=8, threads=8, pack_workers=8),
        ),
        (LocalProfile(), {"runs": 125, "cores": 16, "gpus": 4}, LocalProfile(slots=4, threads=4, pack_workers=16)),
        (LocalProfile(threads=4), {"runs": 125, "cores": 16}, LocalProfile(slots=4, threads=4, pack_workers=16)),
        (LocalProfile(slots=3, threads=1), {"runs": 1, "cores": 2}, LocalProfile(slots=3, threads=1, pack_workers=2)),
        (LocalProfile(), {"runs": 9, "packs": 6, "cores": 8}, LocalProfile(slots=8, threads=1, pack_workers=1)),
        (LocalProfile(ranks=2), {"runs": 9, "cores": 8}, LocalProfile(slots=4, threads=1, pack_workers=8, ranks=2)),
        (
            LocalProfile(ranks=2),
            {"runs": 9, "cores": 16, "gpus": 5},
            LocalProfile(slots=2, threads=4, pack_workers=16, ranks=2),
        ),
        (LocalProfile(ranks=4), {"runs": 9, "cores": 2}, LocalProfile(slots=1, threads=1, pack_workers=2, ranks=4)),
    ],
)
def test_open_choices_follow_from_the_machine(
    profile: LocalProfile, machine: dict[str, float], expected: LocalProfile
) -> None:
    given = {"packs": 1, "gpus": 0, "memory_gib": 64.0} | machine
    assert resolve(profile, **given) == expected  # type: ignore[arg-type]


def test_the_ranks_of_a_slot_get_a_gpu_each_and_slots_take_turns() -> None:
    slots = LocalProfile(slots=2, threads=1, pack_workers=1, ranks=2)
    assert [slots.gpus_of(slot, ["0", "1", "5", "7"]) for slot in (0, 1)] == ["0,1", "5,7"]
    assert [LocalProfile(slots=3, threads=1, pack_workers=1).gpus_of(slot, ["3", "4"]) for slot in (0, 1, 2)] == [
        "3",
        "4",
        "3",
    ]
    assert slots.gpus_of(1, []) == ""
    with pytest.raises(BadInput, match=r"local\.ranks = 4: this machine has 2 GPUs"):
        resolve(LocalProfile(ranks=4), runs=1, packs=1, cores=8, gpus=2, memory_gib=64.0)


def test_a_job_that_trains_has_a_rank_per_gpu_and_a_pack_is_one_process() -> None:
    profile = Profile.model_validate({"slurm": {"train": {"gpus": 4, "nodes": 2}, "pretrain": {"gpus": 0, "nodes": 3}}})
    assert [profile.slurm.ranks_of(stage) for stage in ("pack", "pretrain", "train")] == [1, 3, 8]
