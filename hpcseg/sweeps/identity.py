"""Names of runs: a readable slug and a hash of everything that the result depends on. Pure.

A payload holds resolved values only, so a changed default never aliases old results. What a value resolves to counts,
not how it was written: data enter as digests and case names, `spacing = "median"` as the spacing of the pack. Keys that
the strategy or another setting leaves unused are left out, so that equal runs merge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpcseg.config import PreprocessingConfig, RunConfig
from hpcseg.patches.geometry import PaddedGeometry
from hpcseg.spec import PackSpec, SourceRef, Spacing

_F_NET_ONLY = (
    *("epochs", "steps", "validation_steps", "batch", "loss", "focal_gamma"),
    *("learning_rate", "ema_validation", "stop_epochs"),
)
_PRETRAINING_ONLY = ("epochs", "steps", "batch")  # joint training has keys of its own for them


def run_id(slug: str, payload: Mapping[str, Any]) -> str:
    """`slug` and the first ten hexadecimal digits of the SHA-256 of the payload's canonical JSON."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def relevant(config: RunConfig) -> dict[str, Any]:
    """The resolved values that a training run of this strategy depends on, without its data.

    Left out: `data` and the geometry of preprocessing (they enter as cases and pack), what other strategies use, and
    what changes no result (`inference.save_masks`, `training.checkpoint_epochs`).
    """
    values = {
        "strategy": config.strategy,
        "labelled": config.labelled,
        "fold": config.fold,
        "seed": config.seed,
        "intensities": intensities(config.preprocessing),
        "patches": _dump(config.patches),
        **augmentation(config),
        "network": network(config),
        "training": training(config),
        "inference": _without(_dump(config.inference), "save_masks"),
    }
    if config.strategy != "baseline":
        unused = _PRETRAINING_ONLY if config.strategy == "multitask" else ()
        values["autoencoder"] = _without(autoencoder(config), *unused)
    if config.strategy == "transfer":
        values["transfer"] = _dump(config.transfer)
    if config.strategy == "multitask":
        values["multitask"] = _dump(config.multitask)
    return values


def network(config: RunConfig) -> dict[str, Any]:
    """The network section, with the maps of each level; `kind`, and `margin` in voxels, only where it is a U-Net."""
    section = config.network
    values = _dump(section) | {"maps": list(section.maps_per_level)}
    if section.kind == "fnet":
        return _without(values, "kind", "margin")
    if section.margin == "auto":
        values["margin"] = PaddedGeometry.around(config.patches.size, section.levels).margin
    return values


def augmentation(config: RunConfig) -> dict[str, Any]:
    """The augmentation section under its name; nothing where it is off."""
    return {"augmentation": _dump(config.augmentation)} if config.augmentation.enabled else {}


def training(config: RunConfig) -> dict[str, Any]:
    """The training section, without how often it is saved; `focal_gamma` and `compile` only where they are used."""
    values = _dump(config.training)
    unused = {"focal_gamma": config.training.loss != "focal", "compile": not config.training.compile}
    return _without(values, "checkpoint_epochs", *(key for key, left_out in unused.items() if left_out))


def autoencoder(config: RunConfig) -> dict[str, Any]:
    """The autoencoder section with `sampling` resolved; its volumes enter as cases.

    Left out: `sigma` where nothing is drawn from a Gaussian, `huber_delta` without that loss, and `lifetime`,
    `decoder` and `loss` where they are the published ones.
    """
    section = config.autoencoder
    values = _without(_dump(section), "with_validation", "with_supplementary")
    if section.sampling == "auto":
        values["sampling"] = "uniform" if section.with_supplementary else "gaussian"
    unused = {
        "sigma": values["sampling"] == "uniform",
        "huber_delta": section.loss != "huber",
        "loss": section.loss == "huber",
        "lifetime": section.lifetime == 0,
        "decoder": section.decoder == "transposed",
    }
    return _without(values, *(key for key, left_out in unused.items() if left_out))


def intensities(config: PreprocessingConfig) -> dict[str, Any]:
    """The keys that the chosen normalisation of intensities reads."""
    used = {
        "percentile": ("intensity", "percentiles"),
        "window": ("intensity", "window", "window_range"),
        "zscore": ("intensity", "percentiles"),
    }
    values = _dump(config)
    return {key: values[key] for key in used[config.intensity]}


def pack_id(spec: PackSpec, digests: Mapping[str, str]) -> str:
    """Id of a pack; `digests` are those of each case's image and label."""
    payload = {
        "cases": {case.name: digests[case.name] for case in spec.cases},
        "spacing_zyx": spec.spacing_zyx,
        "classes": spec.classes,
        "padding": spec.padding,
        "pyramid_clip": spec.pyramid_clip,
    }
    return run_id(f"{spec.dataset}-{spacing_slug(spec.spacing_zyx)}", payload)


def pretrain_id(config: RunConfig, level: int, statistics: SourceRef, sources: Sequence[SourceRef]) -> str:
    """Id of the pretraining of one level.

    The labelled cases count only where the clip window or the place of the organ comes from them: otherwise one
    autoencoder serves every fold and subset that shows it the same volumes, and its name shows neither.
    """
    shared = config.preprocessing.intensity != "percentile" and config.autoencoder.sampling != "organ"
    payload = {
        "stage": "pretrain",
        "level": level,
        "seed": config.seed,
        "network": network(config),
        "patches": _without(_dump(config.patches), "foreground_share"),
        **augmentation(config),
        "intensities": intensities(config.preprocessing),
        "training": _without(training(config), *_F_NET_ONLY),
        "autoencoder": autoencoder(config),
        "statistics": None if shared else _source(statistics),
        "sources": [_source(source) for source in sources],
    }
    slug = f"level{level}" if shared else f"level{level}-n{config.labelled}-f{config.fold}"
    return run_id(slug, payload)


def train_id(config: RunConfig, data: Mapping[str, Any]) -> str:
    """Id of a training run; `data` is what its data section resolved to: packs, cases, digests, ancestors."""
    slug = f"{config.strategy}-n{config.labelled}-f{config.fold}"
    return run_id(slug, {"stage": "train", "config": relevant(config), "data": dict(data)})


def spacing_slug(spacing_zyx: Spacing) -> str:
    """`1.0mm` or `2.5x0.8x0.8mm` (z, y, x)."""
    shown = [str(float(value)) for value in spacing_zyx]
    return f"{shown[0] if len(set(shown)) == 1 else 'x'.join(shown)}mm"


def _source(source: SourceRef) -> list[Any]:
    return [source.store.as_posix(), list(source.cases)]


def _dump(section: Any) -> dict[str, Any]:
    values: dict[str, Any] = section.model_dump(mode="json")
    return values


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
