"""What one job has to do: the file `run.json` in a run directory, written by the planner and read by the job.

The planner (`hpcseg.study`) resolves everything that needs the whole study (cases of each split, spacings, ancestors);
a job needs nothing but its own run directory. Paths to other runs are relative to the folder that holds all runs, so
that this folder can be moved; paths to scans are absolute.

    <runs>/<stage>/<id>/run.json
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from hpcseg.config import AutoencoderConfig, RunConfig, TrainingConfig
from hpcseg.errors import BadInput
from hpcseg.files import parse_json, read_bytes
from hpcseg.paths import RUN_FILE, path_inside, plain_name
from hpcseg.seals import seal_holds, with_seal
from hpcseg.sections import Closed, Section, key
from hpcseg.text import in_words

Spacing = tuple[float, float, float]
IGNORED = 255  # class of a voxel that is known to be of none: nothing is learnt from it, nor measured on it
Name = Annotated[str, AfterValidator(plain_name)]  # becomes part of a path
Inside = Annotated[Path, AfterValidator(path_inside)]  # relative to the folder of all runs


class CaseRef(Closed):
    """A scan on disk; `label` is None where there is none.

    `mark` stands for the content of both files when the run was planned; "": not known.
    """

    name: Name
    image: Path
    label: Path | None = None
    mark: str = ""


class SourceRef(Closed):
    """Some cases of one store; `store` is relative to the folder of all runs.

    `labels` is a store of pseudo-labels that stand for the cases' own; None: there is none.
    """

    store: Inside
    cases: tuple[Name, ...]
    labels: Inside | None = None


class StartRef(Closed):
    """Weights of a trained model that a run begins with (`training.start`).

    `digest` is that of the model's file when the run was planned.
    """

    path: Path
    digest: str
    layers: Literal["all", "features", "encoders"]

    @property
    def identity(self) -> tuple[str, str]:
        """What of it is part of a run's identity: its content, wherever it lies."""
        return self.digest, self.layers


class PackSpec(Closed):
    """Pack one dataset at one spacing into `store.h5` in the run directory."""

    stage: Literal["pack"] = "pack"
    id: Name
    dataset: str
    cases: tuple[CaseRef, ...]
    spacing_zyx: Spacing
    classes: tuple[tuple[int, ...], ...]  # label values of class 1, 2, ...; (): every value but 0 is class 1
    padding: Literal["minimum"] | float
    pyramid_clip: tuple[float, float] | None
    codec: Literal["none", "bitshuffle-lz4"] = "none"
    ignore: int | None = None  # label value of voxels that are left out of everything


class PretrainSpec(Closed):
    """Train the autoencoder of one level, or a network as the strategy says; leaves `model.pt` in the run directory."""

    stage: Literal["pretrain"] = "pretrain"
    id: Name
    config: RunConfig
    level: int | None  # of the autoencoder; None: the strategy's own pretraining
    statistics: SourceRef  # the labelled cases: the clip window, and the place of the organ, come from them
    sources: tuple[SourceRef, ...]  # every volume that is seen
    start: StartRef | None = None

    @property
    def length(self) -> AutoencoderConfig:
        """The section with its `epochs` and `steps`."""
        return self.config.autoencoder


class LabelSpec(Closed):
    """Segment packed cases with trained networks; leaves `store.h5` in the run directory, of labels alone."""

    stage: Literal["label"] = "label"
    id: Name
    config: RunConfig  # of the run that trained the network
    model: Inside
    others: tuple[Inside, ...] = ()  # models whose probabilities are averaged with those of `model`
    source: SourceRef
    confidence: float  # voxels whose class is less probable are no class


class TrainSpec(Closed):
    """Train and evaluate one F-Net; leaves `model.pt` and `result.json` in the run directory."""

    stage: Literal["train"] = "train"
    id: Name
    config: RunConfig
    labelled: SourceRef
    validation: SourceRef
    autoencoder_sources: tuple[SourceRef, ...] = ()  # of a strategy that reads them
    pseudo_labelled: tuple[SourceRef, ...] = ()  # of a strategy that learns from what another run has labelled
    pretrained: tuple[Inside, ...] = ()  # model.pt of what was trained before
    start: StartRef | None = None
    spacing_zyx: Spacing
    classes: tuple[tuple[int, ...], ...]
    padding: Literal["minimum"] | float
    pyramid_clip: tuple[float, float] | None
    validation_scans: tuple[CaseRef, ...]
    test_scans: tuple[CaseRef, ...] = ()
    test_classes: tuple[tuple[int, ...], ...] = ()  # as `classes`, in the test set's numbering
    ignore: int | None = None  # as of a pack
    test_ignore: int | None = None

    @property
    def length(self) -> TrainingConfig:
        """The section with its `epochs` and `steps`."""
        return self.config.training

    def scans_in(self, group: str) -> tuple[CaseRef, ...]:
        """The validation or the test scans, in the order in which they are measured."""
        return self.test_scans if group == "test" else self.validation_scans

    def classes_in(self, group: str) -> tuple[tuple[int, ...], ...]:
        """Label values of each class in the validation or the test scans."""
        return self.test_classes if group == "test" else self.classes

    def ignored_in(self, group: str) -> int | None:
        """Label value of voxels that are left out, in the validation or the test scans."""
        return self.test_ignore if group == "test" else self.ignore


AnySpec = PackSpec | PretrainSpec | LabelSpec | TrainSpec
_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(Annotated[AnySpec, Field(discriminator="stage")])


def read_spec(run: Path, of: tuple[str, str] | None = None) -> AnySpec:
    """Read the specification of the run directory `run`; `of` is the stage and id that it has to have.

    Raises:
        BadInput: `run.json` is missing, not JSON, of another version or run, or was changed after it was written.
    """
    path = run / RUN_FILE
    content = read_bytes(path)
    if seal_holds(content) is False:
        raise BadInput(f"{path}: was changed after the run was planned; apply the sweep again, which writes it anew")
    value = parse_json(path, content)
    if isinstance(value, dict):
        value.pop("seal", None)
    try:
        spec = _ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        remedy = f"delete {run} and apply the sweep again"
        if first["type"] == "unknown_name":
            remedy = f"'{first['input']}' is of a package that is not installed here"
        raise BadInput(f"{path}: {where}: {in_words(first)}; {remedy}") from None
    if of not in (None, (spec.stage, spec.id)):
        raise BadInput(f"{path}: is of run {spec.id}, not of {run.name}; apply the sweep again, which writes it anew")
    return spec


def spec_text(spec: AnySpec) -> str:
    """What `run.json` holds, with its seal."""
    return with_seal(spec.model_dump_json(indent=1))


_PLACES = {"image", "label", "mark"}  # of scans, which may move; `id` stands for what they hold
_UNSIGNED: dict[str, Any] = {
    "config": True,  # of one that is shared, it is that of the first run that asked for it; `id` stands for it
    "statistics": True,
    "start": {"path"},
    **{scans: {"__all__": _PLACES} for scans in ("cases", "validation_scans", "test_scans")},
}


def spec_digest(spec: AnySpec) -> str:
    """SHA-256 of what a run works on: id, cases, classes, stores, models; not where scans lie, nor the configuration.

    Every checkpoint, model and result keeps it, so that none is taken for that of another run. What the configuration
    says is in the id. A key that a later version adds changes nothing where it has its default.
    """
    value = spec.model_dump(mode="json", exclude=_UNSIGNED, exclude_defaults=True)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def runs_root(run: Path) -> Path:
    """Folder that holds all runs, given one run directory."""
    return run.resolve().parents[1]


def _absolute(folder: str) -> str:
    if folder and not folder.startswith(("/", "~", "$")):
        raise ValueError(f"{folder!r} is no absolute path; begin it with /, ~ or a variable, as in '$TMPDIR'")
    return folder


class Reading(Section):
    """How a job reads its stores; no part of a run's identity."""

    stage: Annotated[str, AfterValidator(_absolute)] = key(
        "",
        "folder of the node to which stores are copied before training; --stage replaces it; ~ and $NAME are "
        'the job\'s; "": none',
        source="ours: shared disks are slow at reading here and there",
    )
    tier: Literal["auto", "gpu", "ram", "streamed"] = key(
        "auto",
        "where a store's bytes are while training: on the GPU, in memory, read on demand; auto: the first with room",
        source="ours: changes no result, only the time",
    )


AS_IT_COMES = Reading()
