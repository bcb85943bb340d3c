"""Names of runs: a readable slug and a hash of everything that the result depends on. Pure.

A payload holds resolved values only, so a changed default never aliases old results. What a value resolves to counts,
not how it was written: data enter as digests and case names, `spacing = "median"` as the spacing of the pack. Keys that
the strategy or another setting leaves unused are left out, so that equal runs merge.

The runs of a sweep share most of their sections: the JSON of a section is made once for all of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hpcseg.config import (
    AugmentationConfig,
    AutoencoderConfig,
    InferenceConfig,
    NetworkConfig,
    PatchesConfig,
    PreprocessingConfig,
    RunConfig,
    TrainingConfig,
)
from hpcseg.config.data import INTENSITIES
from hpcseg.patches.geometry import PaddedGeometry
from hpcseg.sections import Section
from hpcseg.spec import PackSpec, SourceRef, Spacing, StartRef
from hpcseg.training.strategy import strategy_of

_F_NET_ONLY = (
    *("epochs", "steps", "validation_steps", "batch", "loss", "focal_gamma"),
    *("learning_rate", "ema_validation", "stop_epochs", "average", "start_share"),
)

# Of the other mode of inference: as ids have always had them, so that no finished run gets another name.
_UNREAD: Mapping[str, dict[str, float]] = {"tiles": {"overlap": 0.5, "sigma": 0.5}, "paper": {"tile": 0}}
_WATCHING = ("checkpoint_seconds", "checkpoint_epochs", "dsc_epochs", "dsc_cases")  # change no weight
_PLATEAU_ONLY = ("plateau_drop", "plateau_epochs", "plateau_factor", "rate_floor", "stop_epochs")
_KEPT = 4096  # sections whose JSON is remembered
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_key = functools.lru_cache(1024)(_encode)


class Canonical(str):
    """Canonical JSON, which stands in a payload for the value that it was made from."""

    __slots__ = ()


def canonical(value: Any) -> Canonical:
    """Canonical JSON of a value: sorted keys, no white space. The values of a mapping may be `Canonical` already.

    >>> canonical({"seed": 0, "maps": [16, 24]})
    '{"maps":[16,24],"seed":0}'
    """
    if not isinstance(value, Mapping):
        return Canonical(_encode(value))
    parts = [f"{_key(key)}:{_text(value[key])}" for key in sorted(value)]
    return Canonical("{" + ",".join(parts) + "}")


def _text(value: Any) -> str:
    kind = type(value)
    if kind is Canonical:
        return value  # type: ignore[no-any-return]
    return str(value) if kind is int else _encode(value)  # the encoder takes ten times as long for a number


def run_id(slug: str, payload: Mapping[str, Any]) -> str:
    """`slug` and the first ten hexadecimal digits of the SHA-256 of the payload's canonical JSON.

    >>> run_id("baseline-n2-f0", {"seed": 0})
    'baseline-n2-f0-bd04888434'
    """
    return f"{slug}-{hashlib.sha256(canonical(payload).encode()).hexdigest()[:10]}"


def remembered(make: Callable[..., Any]) -> Callable[..., Canonical]:
    """Canonical JSON of what `make` gives for some sections and names, made once for the same ones.

    The same objects, not equal ones: 1 and 1.0 are equal, and not written alike.
    """
    known: dict[tuple[int | str, ...], tuple[tuple[Section | str, ...], Canonical]] = {}

    @functools.wraps(make)
    def made(*parts: Section | str) -> Canonical:
        key = tuple([part if isinstance(part, str) else id(part) for part in parts])
        found = known.get(key)
        if found is None:
            if len(known) >= _KEPT:
                known.clear()
            # The sections are kept with their JSON, or another object could get the id of one of them.
            found = known[key] = (parts, canonical(make(*parts)))
        return found[1]

    return made


def relevant(config: RunConfig) -> dict[str, Any]:
    """The resolved values that a training run of this strategy depends on, without its data; sections as JSON.

    Left out: `data` and the geometry of preprocessing (they enter as cases and pack), which model it begins with
    (likewise), what the strategy or another key leaves unused, and what changes no mask (`inference.save_masks`,
    `inference.nsd_mm`, `training.checkpoint_*`, `training.dsc_*`, `logging`).
    """
    strategy = strategy_of(config)
    unused = strategy.unused(config)
    left_out = functools.partial(_left_out, unused)
    made = {
        "intensities": _intensities(config.preprocessing),
        "patches": _plain(config.patches, *left_out("patches")),
        **_augmentation(config),
        "network": _network(config.network, config.patches),
        "training": _training(config.training, *left_out("training")),
        "inference": _inference(config.inference),
        "autoencoder": _autoencoder(config.autoencoder, *left_out("autoencoder")),
    }
    if strategy.section_type.model_fields:
        own, unread = strategy.section(config), left_out(strategy.name)
        resolved = {key: value for key, value in strategy.resolved(config).items() if key not in unread}
        made[strategy.name] = (
            canonical(_without(_values(own), *unread) | resolved) if resolved else _plain(own, *unread)
        )
    place = {"strategy": config.strategy, "labelled": config.labelled, "fold": config.fold, "seed": config.seed}
    return place | {section: text for section, text in made.items() if section not in unused}


def _left_out(unused: Collection[str], section: str) -> list[str]:
    """Keys of a section among dotted ones."""
    return sorted([key.removeprefix(f"{section}.") for key in unused if key.startswith(f"{section}.")])


def _augmentation(config: RunConfig) -> dict[str, Canonical]:
    """The augmentation section under its name; nothing where it is off."""
    return {"augmentation": _changes(config.augmentation)} if config.augmentation.enabled else {}


@remembered
def _changes(section: AugmentationConfig) -> dict[str, Any]:
    """The augmentation section without what is not in the paper, but for what is drawn of it; axes in any order."""
    values = _values(section) | {"mirror": sorted(set(section.mirror))}
    conditions = {
        "elastic_spacing": section.elastic == 0,
        "intensity_share": not section.changes_intensity,
        **{name: not values[name] for name in ("mirror", "elastic")},
        **{name: section.intensity_share * values[name] == 0 for name in INTENSITIES},
    }
    return _without(values, *_where(conditions))


@remembered
def _plain(section: Section, *unused: str) -> dict[str, Any]:
    """A section without unused keys."""
    return _without(_values(section), *unused)


@remembered
def _network(section: NetworkConfig, patches: PatchesConfig) -> dict[str, Any]:
    """The network section, with the maps of each level; `kind`, and `margin` in voxels, only where it is a U-Net."""
    values = _values(section) | {"maps": list(section.maps_per_level)}
    if section.kind == "fnet":
        return _without(values, "kind", "margin")
    if section.margin == "auto":
        values["margin"] = PaddedGeometry.around(patches.size, section.levels).margin
    return values


@remembered
def _training(section: TrainingConfig, *unused: str) -> dict[str, Any]:
    """The training section, without how often it is saved and measured; what one choice reads only beside it."""
    plateau = section.schedule == "plateau"
    conditions = {
        "focal_gamma": section.loss != "focal",
        "compile": not section.compile,
        "average": section.average == 0,
        "start_share": not section.start,
        **dict.fromkeys(("schedule", "polynomial_exponent"), plateau),
        **dict.fromkeys(_PLATEAU_ONLY, not plateau),
    }
    return _without(_values(section), *_WATCHING, "start", "start_layers", *unused, *_where(conditions))


@remembered
def _inference(section: InferenceConfig) -> dict[str, Any]:
    """What the mode reads of the inference section, without what is kept and measured of a mask."""
    conditions = {"precision": section.precision == "trained"}
    return _without(_values(section), "save_masks", "nsd_mm", *_where(conditions)) | _UNREAD[section.mode]


@remembered
def _autoencoder(section: AutoencoderConfig, *unused: str) -> dict[str, Any]:
    """The autoencoder section with `sampling` resolved; its volumes enter as cases.

    Left out: `sigma` where nothing is drawn from a Gaussian, `huber_delta` without that loss, and `lifetime`,
    `decoder`, `loss` and `inside` where they are the published ones.
    """
    values = _without(_values(section), "with_validation", "with_supplementary", *unused)
    conditions = {
        "sigma": section.resolved_sampling == "uniform",
        "huber_delta": section.loss != "huber",
        "loss": section.loss == "huber",
        "lifetime": section.lifetime == 0,
        "decoder": section.decoder == "transposed",
        "inside": section.inside == 0,
    }
    return _without(values | {"sampling": section.resolved_sampling}, *_where(conditions))


@remembered
def _intensities(section: PreprocessingConfig) -> dict[str, Any]:
    """The keys that the chosen normalisation of intensities reads."""
    used = {
        "percentile": ("intensity", "percentiles"),
        "window": ("intensity", "window", "window_range"),
        "zscore": ("intensity", "percentiles"),
    }
    values = _values(section)
    return {key: values[key] for key in used[section.intensity]}


def pack_id(spec: PackSpec, digests: Mapping[str, str]) -> str:
    """Id of a pack; `digests` are those of each case's image and label."""
    payload = {
        "cases": {case.name: digests[case.name] for case in spec.cases},
        "spacing_zyx": spec.spacing_zyx,
        "classes": spec.classes,
        "padding": spec.padding,
        "pyramid_clip": spec.pyramid_clip,
        **({} if spec.ignore is None else {"ignore": spec.ignore}),
    }
    return run_id(f"{spec.dataset}-{spacing_slug(spec.spacing_zyx)}", payload)


def is_shared(config: RunConfig) -> bool:
    """Whether one autoencoder serves every fold and subset that shows it the same volumes.

    It does where the labelled cases give it neither the clip window nor the place of the organ.
    """
    return config.preprocessing.intensity != "percentile" and config.autoencoder.sampling != "organ"


def pretrain_id(
    config: RunConfig, level: int | None, statistics: SourceRef, sources: Sequence[SourceRef], start: StartRef | None
) -> str:
    """Id of the pretraining of one level, or with None of the strategy's own.

    The labelled cases count, and show in its name, unless `is_shared`.
    """
    shared = is_shared(config)
    what: dict[str, Any] = {"level": level}
    unused: list[str] = []
    if level is None:
        strategy = strategy_of(config)
        others = strategy.section_type.model_fields.keys() - strategy.pretraining_keys
        what = {"strategy": strategy.name, strategy.name: _plain(strategy.section(config), *sorted(others))}
        unused = _left_out(strategy.unused(config), "autoencoder")
    payload = {
        "stage": "pretrain",
        **what,
        "seed": config.seed,
        "network": _network(config.network, config.patches),
        "patches": _plain(config.patches, "foreground_share"),
        **_augmentation(config),
        "intensities": _intensities(config.preprocessing),
        "training": _training(config.training, *_F_NET_ONLY),
        "autoencoder": _autoencoder(config.autoencoder, *unused),
        "statistics": None if shared else _source(statistics),
        "sources": Canonical(f"[{','.join(map(_source, sources))}]"),
        **({} if start is None else {"start": start.identity}),
    }
    slug = config.strategy if level is None else f"level{level}"
    return run_id(slug if shared else f"{slug}-n{config.labelled}-f{config.fold}", payload)


def label_id(teachers: Collection[str], source: SourceRef, confidence: float) -> str:
    """Id of the labelling of some cases by the networks of the runs `teachers`, in whose ids all of them stands."""
    teacher, *others = teachers
    payload = {"stage": "label", "teacher": teacher, "source": _source(source), "confidence": confidence}
    if others:  # ids of one teacher are older than the key
        payload["others"] = others
    return run_id(f"labels-{teacher.rpartition('-')[0]}", payload)


def train_id(config: RunConfig, data: Mapping[str, Any]) -> str:
    """Id of a training run; `data` is what its data section resolved to: packs, cases, digests, ancestors."""
    slug = f"{config.strategy}-n{config.labelled}-f{config.fold}"
    return run_id(slug, {"stage": "train", "config": canonical(relevant(config)), "data": canonical(data)})


def spacing_slug(spacing_zyx: Spacing) -> str:
    """Spacing (mm; z, y, x) as it stands in the name of a pack.

    >>> spacing_slug((1.0, 1.0, 1.0)), spacing_slug((2.5, 0.8, 0.8))
    ('1.0mm', '2.5x0.8x0.8mm')
    """
    shown = [str(float(value)) for value in spacing_zyx]
    return f"{shown[0] if len(set(shown)) == 1 else 'x'.join(shown)}mm"


@remembered
def _source(source: SourceRef) -> list[Any]:
    """The cases of one store."""
    return [source.store.as_posix(), list(source.cases)]


def _values(section: Section) -> dict[str, Any]:
    values: dict[str, Any] = section.model_dump(mode="json")
    return values


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _where(conditions: Mapping[str, bool]) -> list[str]:
    return [key for key, holds in conditions.items() if holds]
