"""Training that begins with a model of one's own choice (`training.start`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.errors import BadInput
from hpcseg.spec import PretrainSpec, StartRef, TrainSpec, spec_digest
from hpcseg.study.plan import Plan
from hpcseg.training import stages
from hpcseg.training.checkpoint import digest_of, load_tensors
from hpcseg.training.control import Control
from hpcseg.training.model import TrainedModel
from hpcseg.training.pretrained import is_taken
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from tests.commandline import call, checked
from tests.inference.untrained import model, save
from tests.training.conftest import SMALL
from tests.training.stopping import train_in_parts

NewRun = Callable[[str], Path]
Make = Callable[..., TrainSpec]
UNET = SMALL["network"] | {"kind": "unet"}
SETTINGS: dict[str, Any] = SMALL["training"] | {"batch": 4, "epochs": 2}


class Begun(Exception):
    """Raised in place of the training, with its task."""


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, new_run: NewRun) -> Callable[[Any], Any]:
    """The task of a run, as training would begin with it."""

    def stop(task: Any, *rest: Any) -> Any:
        raise Begun(task)

    def begun(spec: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(stages, "fit", stop)
            with pytest.raises(Begun) as found:
                train(new_run("begun"), spec, Control(new_run("control")))
        return found.value.args[0]

    return begun


def start(folder: Path, network: dict[str, Any] = SMALL["network"], layers: Any = "all") -> StartRef:
    path = save(model(network=network), folder)
    return StartRef(path=path, digest=digest_of(path), layers=layers)


@pytest.mark.parametrize(
    ("strategy", "network", "layers"),
    [
        *(("baseline", SMALL["network"], "features"), ("baseline", UNET, "encoders")),
        *(("multitask", SMALL["network"], "all"), ("teacher", UNET, "features"), ("selftrain", UNET, "all")),
    ],
)
def test_what_was_asked_for_is_the_models_and_the_rest_is_fresh(
    strategy: str,
    network: dict[str, Any],
    layers: str,
    tmp_path: Path,
    begin: Callable[..., Any],
    train_spec: Make,
    request: pytest.FixtureRequest,
) -> None:
    pseudo = (request.getfixturevalue("pseudo_labelled"),) if strategy == "selftrain" else ()
    spec = train_spec(strategy, (), pseudo, network=network, training=SETTINGS | {"start_share": 0.25})
    fresh = begin(spec).network.state_dict()
    given = start(tmp_path, network, layers)
    task = begin(spec.model_copy(update={"start": given}))
    weights = load_tensors(given.path)["weights"]
    rates = {
        id(weight): group["lr"] for group in task.optimizers["segmentation"].param_groups for weight in group["params"]
    }
    for name, found in task.network.state_dict().items():
        taken = is_taken(name, layers)
        assert torch.equal(found, (weights if taken else fresh)[name]), name
    for name, weight in task.network.named_parameters():
        assert rates[id(weight)] == SETTINGS["learning_rate"] * (0.25 if is_taken(name, layers) else 1.0)
    if task.average is not None:
        assert torch.equal(task.average.network.state_dict()[name], found)


def test_pretrainings_begin_with_it_too(
    tmp_path: Path, begin: Callable[..., Any], pretrain_spec: Callable[..., PretrainSpec]
) -> None:
    given = start(tmp_path)
    weights = load_tensors(given.path)["weights"]
    of_level = begin(pretrain_spec(1).model_copy(update={"start": given.model_copy(update={"layers": "encoders"})}))
    own = of_level.network.encoder.state_dict()
    assert own and all(torch.equal(w, weights[f"encoders.1.{name}"]) for name, w in own.items())
    masked = begin(pretrain_spec(None).model_copy(update={"start": given.model_copy(update={"layers": "features"})}))
    for name, found in masked.network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(found, weights[name])


def test_what_a_pretraining_gives_comes_after_it_at_its_own_rate(
    tmp_path: Path, begin: Callable[..., Any], train_spec: Make, pretrained: tuple[Path, ...]
) -> None:
    given = start(tmp_path)
    changes = {"training": SETTINGS | {"start_share": 0.5}, "transfer": {"phi": "fresh"}}
    task = begin(train_spec("transfer", pretrained, **changes).model_copy(update={"start": given}))
    weights = load_tensors(given.path)["weights"]
    for name, found in task.network.state_dict().items():
        assert torch.equal(found, weights[name]) is not (name.startswith("encoders.") and name.endswith("conv.weight"))
    rates = [group["initial_lr"] for group in task.optimizers["segmentation"].param_groups]
    assert rates == [0.5 * SETTINGS["learning_rate"], 8e-4]


def test_such_a_run_goes_on_to_the_bit(tmp_path: Path, new_run: NewRun, train_spec: Make) -> None:
    given = start(tmp_path, UNET, "features")
    spec = train_spec("teacher", network=UNET, training=SETTINGS | {"start_share": 0.3, "epochs": 1})
    spec = spec.model_copy(update={"start": given})
    whole, parts = new_run("whole"), new_run("parts")
    train(whole, spec, Control(whole))
    train_in_parts(parts, spec, [2])
    assert compare(whole, parts) is None
    TrainedModel.load(whole)


def test_a_model_that_is_another_one_than_when_the_run_was_planned_is_refused(
    tmp_path: Path, new_run: NewRun, train_spec: Make
) -> None:
    spec = train_spec().model_copy(update={"start": start(tmp_path)})
    save(model(seed=4), tmp_path)
    run = new_run("run")
    with pytest.raises(BadInput, match=r"model\.pt was changed after this run was planned; hpcseg sweep plans another"):
        train(run, spec, Control(run))
    (tmp_path / "model.pt").unlink()
    with pytest.raises(BadInput, match=r"model\.pt: cannot be read"):
        train(run, spec, Control(run))


def test_a_specification_without_it_is_what_it_was_and_with_it_does_not_name_its_place(
    tmp_path: Path, train_spec: Make
) -> None:
    spec = train_spec()
    assert "start" not in spec.model_dump(exclude_defaults=True)
    given = start(tmp_path)
    one, moved, other = (
        spec_digest(spec.model_copy(update={"start": found}))
        for found in (
            given,
            given.model_copy(update={"path": Path("/elsewhere.pt")}),
            given.model_copy(update={"layers": "encoders"}),
        )
    )
    assert one == moved != other != spec_digest(spec) != one


def test_the_model_is_part_of_a_run_and_not_its_place(tmp_path: Path, plan_study: Callable[..., Plan]) -> None:
    network = {"levels": 2, "kernel": 3, "maps": 2}
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        (tmp_path / name).mkdir()
        save(model(network=network, seed=seed), tmp_path / name)

    def planned(*settings: str) -> list[tuple[str, ...]]:
        plan = plan_study("strategy=[transfer, masked, baseline]", "masked.block=4", *settings)
        return [tuple(plan.of_stage(stage)) for stage in ("pretrain", "train")]

    given = planned("training.start=one/model.pt")
    ids = [planned(), given, planned("training.start=three"), planned("training.start=one", "training.start_share=0.5")]
    ids.append(planned("training.start=one", "training.start_layers=encoders"))
    assert given == planned(f"training.start={tmp_path / 'two'}")
    assert len({name for _, trained in ids for name in trained}) == 3 * len(ids)
    pretrained = [before for before, _ in ids]
    assert len({*pretrained}) == 4  # the share is not theirs
    assert pretrained[1][:2] == pretrained[4][:2] != pretrained[2][:2]  # of levels: encoders in any case
    (spec,) = (stage.spec for stage in plan_study("training.start=one").of_stage("train").values())
    assert isinstance(spec, TrainSpec) and spec.start is not None and spec.start.path == tmp_path / "one" / "model.pt"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.start=none.pt"], "training.start = 'none.pt': there is no"),
        (["network.kind=unet"], r'model\.pt has network\.kind = "fnet", the run "unet"; set network\.kind to the'),
        (["network.levels=3"], r"model\.pt has network\.levels = 2, the run 3"),
        (["network.kernel=5"], r"model\.pt has network\.kernel = 3, the run 5"),
        (["network.maps=[2,4]"], r"model\.pt has network\.maps = \[2, 2\], the run \[2, 4\]"),
        (["data.foreground=[[[1],[2]]]"], r"has 1, the run 2 foreground classes; .*start_layers = \"features\""),
        (["training.start=study.toml"], r"study\.toml: not a file of hpcseg's tensors"),
    ],
)
def test_what_does_not_fit_is_a_line_before_anything_is_done(
    settings: list[str], message: str, tmp_path: Path, plan_study: Callable[..., Plan]
) -> None:
    save(model(network={"levels": 2, "kernel": 3, "maps": 2}), tmp_path)
    with pytest.raises(BadInput, match=message):
        plan_study("training.start=model.pt", *settings)
    assert not (tmp_path / "runs").exists()


def test_the_command_ends_with_two(tmp_path: Path, tiny_dataset: Path, plan_study: Callable[..., Plan]) -> None:
    plan_study()  # writes the sweep file
    save(model(network=UNET), tmp_path)
    done = call(tmp_path, "sweep", "study.toml", "--data", tiny_dataset.parent, "--set", "training.start=model.pt")
    (line,) = checked(done, 2).stderr.splitlines()
    assert "training.start: " in line and not (tmp_path / "runs").exists()
