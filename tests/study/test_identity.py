from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.config import RunConfig
from hpcseg.spec import CaseRef, PackSpec, SourceRef
from hpcseg.study.identity import canonical, pack_id, pretrain_id, relevant, run_id, spacing_slug, train_id

POLYNOMIAL = {"training": {"schedule": "polynomial"}}
SOURCE = SourceRef(store=Path("pack/p/store.h5"), cases=("a", "b"))


def config(**values: Any) -> RunConfig:
    return RunConfig.model_validate({"labelled": 4, **values})


def pretraining(settings: RunConfig, statistics: SourceRef = SOURCE, level: int = 0) -> str:
    return pretrain_id(settings, level, statistics, [SOURCE], None)


def test_an_id_is_a_slug_and_ten_digits_that_do_not_depend_on_the_order_of_keys() -> None:
    assert run_id("baseline-n4-f0", {"a": 1, "b": 2}) == run_id("baseline-n4-f0", {"b": 2, "a": 1})
    assert run_id("s", {"a": 1}) == "s-015abd7f5c"
    assert train_id(config(), {}).startswith("baseline-n4-f0-")


@pytest.mark.parametrize(
    ("strategy", "change", "matters"),
    [
        ("baseline", {"autoencoder": {"epochs": 1}}, False),
        ("baseline", {"autoencoder": {"with_supplementary": True}}, False),
        ("baseline", {"transfer": {"phi": 2.0}}, False),
        ("baseline", {"multitask": {"levels": 1}}, False),
        ("baseline", {"data": {"supplementary": ["X"], "unlabelled_ts": True}}, False),
        ("baseline", {"inference": {"save_masks": False}}, False),
        ("baseline", {"inference": {"nsd_mm": 2.0}}, False),
        ("baseline", {"training": {"checkpoint_epochs": 1, "checkpoint_seconds": 1.0}}, False),
        ("baseline", {"logging": {"tensorboard": True, "mlflow": "/m", "wandb": "offline"}}, False),
        ("baseline", {"training": {"dsc_epochs": 1, "dsc_cases": 1}}, False),
        ("baseline", {"preprocessing": {"window": [-100, 100]}}, False),  # percentile is the default
        ("baseline", {"network": {"maps": [32, 32, 32, 32]}}, False),  # what 32 resolves to
        ("baseline", {"training": {"epochs": 1}}, True),
        ("baseline", {"preprocessing": {"intensity": "window"}}, True),
        ("baseline", {"inference": {"mode": "paper"}}, True),
        ("baseline", {"seed": 1}, True),
        ("transfer", {"multitask": {"levels": 1}}, False),
        ("transfer", {"transfer": {"phi": 2.0}}, True),
        ("transfer", {"autoencoder": {"epochs": 1}}, True),
        ("multitask", {"transfer": {"phi": 2.0}}, False),
        ("multitask", {"autoencoder": {"epochs": 1, "steps": 1, "batch": 1}}, False),
        ("multitask", {"autoencoder": {"winners": 1}}, True),
        ("multitask", {"autoencoder": {"sampling": "gaussian"}}, False),  # what auto resolves to
        ("multitask", {"autoencoder": {"sampling": "uniform"}}, True),
        ("multitask", {"multitask": {"factor": 0.5}}, True),
        ("baseline", {"network": {"margin": 8}}, False),  # of a U-Net
        ("baseline", {"network": {"kind": "unet"}}, True),
        ("baseline", {"training": {"focal_gamma": 1.0}}, False),
        ("baseline", {"training": {"loss": "focal"}}, True),
        ("baseline", {"training": {"precision": "float16"}}, True),
        ("baseline", {"training": {"schedule": "polynomial"}}, True),
        ("baseline", {"training": {"polynomial_exponent": 1.0}}, False),
        ("baseline", {"training": {"average": 0.99}}, True),
        ("baseline", {"training": {"compile": True}}, True),
        ("baseline", {"autoencoder": {"decoder": "cbru", "loss": "l2", "lifetime": 0.5}}, False),
        ("transfer", {"autoencoder": {"decoder": "cbru"}}, True),
        ("transfer", {"autoencoder": {"loss": "l2"}}, True),
        ("transfer", {"autoencoder": {"lifetime": 0.5}}, True),
        ("transfer", {"autoencoder": {"inside": 0.0}}, False),
        ("transfer", {"autoencoder": {"inside": 0.5}}, True),
        ("multitask", {"autoencoder": {"sampling": "organ"}}, True),
        ("masked", {"masked": {"block": 8}}, True),
        ("selftrain", {"selftrain": {"confidence": 0.8}}, True),
        ("selftrain", {"selftrain": {"teacher": "teacher"}}, False),  # its run does
        ("selftrain", {"autoencoder": {"winners": 1}}, False),
        ("masked", {"autoencoder": {"winners": 1, "decoder": "cbru", "lifetime": 0.5}}, False),
        ("masked", {"autoencoder": {"steps": 1}}, True),
        ("teacher", {"autoencoder": {"winners": 1, "epochs": 1, "learning_rate": 1.0}}, False),
        ("teacher", {"autoencoder": {"sampling": "uniform"}}, True),
        ("teacher", {"autoencoder": {"inside": 0.5}}, True),
        ("masked", {"autoencoder": {"inside": 0.5}}, True),
        ("teacher", {"training": {"average": 0.9}}, False),  # the teacher is one
        ("teacher", {"teacher": {"decay": 0.9}}, True),
        ("teacher", {"teacher": {"with_validation": True}}, False),  # cases say so
    ],
)
def test_only_what_the_strategy_uses_is_part_of_a_run(strategy: str, change: dict[str, Any], matters: bool) -> None:
    assert (relevant(config(strategy=strategy)) != relevant(config(strategy=strategy, **change))) is matters


def test_sigma_counts_only_for_gaussian_sampling() -> None:
    uniform = {"sampling": "uniform"}
    one = config(strategy="transfer", autoencoder={**uniform, "sigma": 0.1})
    other = config(strategy="transfer", autoencoder={**uniform, "sigma": 0.2})
    assert relevant(one) == relevant(other)


@pytest.mark.parametrize(
    ("strategy", "given", "change", "matters"),
    [
        ("baseline", {"network": {"kind": "unet"}}, {"network": {"kind": "unet", "margin": 8}}, True),
        (
            "baseline",
            {"network": {"kind": "unet"}},
            {"network": {"kind": "unet", "margin": 36}},
            False,
        ),  # half the patch
        ("baseline", {"training": {"loss": "focal"}}, {"training": {"loss": "focal", "focal_gamma": 1.0}}, True),
        ("transfer", {"autoencoder": {"loss": "l2"}}, {"autoencoder": {"loss": "l2", "huber_delta": 2.0}}, False),
        ("transfer", {}, {"autoencoder": {"huber_delta": 2.0}}, True),
        ("baseline", POLYNOMIAL, {"training": {"schedule": "polynomial", "polynomial_exponent": 1.0}}, True),
        (
            "baseline",
            POLYNOMIAL,
            {"training": {"schedule": "polynomial", "plateau_epochs": 1, "stop_epochs": 1}},
            False,
        ),
        ("baseline", POLYNOMIAL, {"training": {"schedule": "polynomial", "rate_floor": 1e-5}}, False),
        ("baseline", {}, {"inference": {"sigma": 0.1}}, False),  # tiles do not overlap
        ("baseline", {}, {"inference": {"overlap": 0.1}}, False),
        ("baseline", {}, {"inference": {"tile": 64}}, True),
        ("baseline", {"inference": {"mode": "paper"}}, {"inference": {"mode": "paper", "tile": 64}}, False),
        ("baseline", {"inference": {"mode": "paper"}}, {"inference": {"mode": "paper", "sigma": 0.1}}, True),
        ("baseline", {"inference": {"mode": "paper"}}, {"inference": {"mode": "paper", "overlap": 0.1}}, True),
        ("transfer", {}, {"transfer": {"fine_tune_rate": 1e-3}}, True),
        ("transfer", {}, {"transfer": {"fine_tune_rate": 8e-5}}, False),  # what the share resolves to
        ("transfer", {}, {"transfer": {"fine_tune_share": 1.0}}, True),
        ("transfer", {}, {"transfer": {"fine_tune_rate": 3e-4, "fine_tune_share": 0.5}}, True),
        (
            "transfer",
            {"transfer": {"fine_tune_rate": 3e-4}},
            {"transfer": {"fine_tune_rate": 3e-4, "fine_tune_share": 0.5}},
            False,
        ),
        ("transfer", {}, {"training": {"learning_rate": 1e-3}}, True),
        ("transfer", {"transfer": {"phi": "fresh"}}, {"transfer": {"phi": "auto"}}, False),  # its former name
        ("transfer", {"transfer": {"phi": "fresh"}}, {"transfer": {"phi": "trained"}}, True),
        ("transfer", {"transfer": {"phi": "fresh"}}, {"transfer": {"phi": "fresh", "phi_steps": 5}}, False),
        ("transfer", {"transfer": {"phi": "trained"}}, {"transfer": {"phi_steps": 5}}, True),
        ("transfer", {}, {"transfer": {"phi_steps": 10**9}}, True),
        ("transfer", {"training": {"epochs": 10}}, {"training": {"epochs": 10}, "transfer": {"phi_steps": 15}}, False),
        ("multitask", {"multitask": {"gamma": "power_of_ten"}}, {"multitask": {"gamma": "auto"}}, False),
        ("multitask", {}, {"multitask": {"gamma": "power_of_ten"}}, True),
        (
            "transfer",
            {"transfer": {"scheme": "freeze_all"}},
            {"transfer": {"scheme": "freeze_all", "fine_tune_rate": 1e-3}},
            False,
        ),
    ],
)
def test_a_key_counts_only_beside_the_choice_that_reads_it(
    strategy: str, given: dict[str, Any], change: dict[str, Any], matters: bool
) -> None:
    one, other = config(strategy=strategy, **given), config(strategy=strategy, **change)
    assert (train_id(one, {}) != train_id(other, {})) is matters


def test_pretraining_is_shared_over_folds_and_subsets_unless_the_window_comes_from_the_labelled_cases() -> None:
    other = SourceRef(store=SOURCE.store, cases=("b",))
    for intensity, shared in (("window", True), ("zscore", True), ("percentile", False)):
        one = config(strategy="transfer", preprocessing={"intensity": intensity})
        two = config(strategy="transfer", preprocessing={"intensity": intensity}, labelled=8, fold=1)
        assert (pretraining(one) == pretraining(two, other)) is shared
    assert pretraining(config(preprocessing={"intensity": "window"})).startswith("level0-")
    assert pretraining(config(), level=2).startswith("level2-n4-f0-")


def test_pretraining_ignores_what_only_the_f_net_reads() -> None:
    base = pretraining(config())
    assert base == pretraining(config(training={"epochs": 1, "batch": 3, "learning_rate": 1.0}))
    assert base == pretraining(config(training={"loss": "focal", "focal_gamma": 1.0}))
    assert base == pretraining(config(patches={"foreground_share": 0.5}))
    assert base == pretraining(config(strategy="transfer", transfer={"phi": 2.0}))
    assert base == pretraining(config(training={"average": 0.99}))
    assert base != pretraining(config(training={"plateau_epochs": 1}))
    assert base != pretraining(config(training={"schedule": "polynomial"}))
    assert base != pretraining(config(autoencoder={"epochs": 1}))
    assert base != pretraining(config(autoencoder={"decoder": "cbru"}))
    assert base != pretraining(config(training={"compile": True}))
    assert base != pretraining(config(), level=1)


def test_a_pretraining_of_a_strategy_s_own_is_what_the_strategy_makes_it() -> None:
    def own(**values: Any) -> str:
        return pretrain_id(config(strategy="masked", **values), None, SOURCE, [SOURCE], None)

    assert own().startswith("masked-n4-f0-") and own(preprocessing={"intensity": "zscore"}).startswith("masked-")
    assert own() == own(masked={"fine_tune_share": 1.0, "with_validation": True})
    assert own() == own(autoencoder={"winners": 1, "decoder": "cbru"})
    assert own() != own(masked={"share": 0.5})
    assert own() != own(autoencoder={"learning_rate": 1e-3})
    assert own() != own(network={"kind": "unet"})


def test_a_pack_is_its_cases_content_and_geometry(tmp_path: Path) -> None:
    spec = PackSpec(
        id="any",
        dataset="D",
        cases=(CaseRef(name="a", image=tmp_path / "a.nii.gz"),),
        spacing_zyx=(2.0, 1.0, 1.0),
        classes=((1, 2),),
        padding=-1000.0,
        pyramid_clip=None,
    )
    base = pack_id(spec, {"a": "digest"})
    moved = spec.model_copy(update={"cases": (CaseRef(name="a", image=tmp_path / "elsewhere" / "a.nii.gz"),)})
    assert base.startswith("D-2.0x1.0x1.0mm-")
    assert pack_id(moved, {"a": "digest"}) == base
    assert pack_id(spec, {"a": "other"}) != base
    assert pack_id(spec.model_copy(update={"classes": ((1,), (2,))}), {"a": "digest"}) != base


def test_spacing_is_short_where_it_is_isotropic() -> None:
    assert spacing_slug((1.0, 1.0, 1.0)) == "1.0mm"
    assert spacing_slug((2.5, 0.8, 0.8)) == "2.5x0.8x0.8mm"


def test_ids_stay_the_same_in_another_release() -> None:
    """A changed id would orphan every finished run: change this only together with what the result depends on."""
    assert train_id(config(), {"pack": "p"}) == "baseline-n4-f0-93e0955e0a"


def test_augmentation_counts_where_it_is_on() -> None:
    off = config(augmentation={"enabled": False, "rotation": 3})
    assert train_id(off, {"pack": "p"}) == train_id(config(), {"pack": "p"})
    assert pretraining(off) == pretraining(config())
    on = [config(augmentation={"enabled": True, "rotation": angle}) for angle in (3, 15)]
    assert len({train_id(one, {"pack": "p"}) for one in (off, *on)}) == 3
    assert len({pretraining(one) for one in (off, *on)}) == 3


def test_around_the_organ_pretraining_depends_on_the_labelled_cases_whatever_the_intensities() -> None:
    other = SourceRef(store=SOURCE.store, cases=("another",))
    settings = {"preprocessing": {"intensity": "window"}}
    around = config(**settings, autoencoder={"sampling": "organ"})
    assert pretraining(around) != pretraining(around, other)
    assert pretraining(config(**settings)) == pretraining(config(**settings), other)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(payload=st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_canonical_json_is_what_the_standard_library_writes(payload: dict[str, Any]) -> None:
    plain = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert canonical(payload) == plain
    assert canonical({key: canonical(value) for key, value in payload.items()}) == plain
    assert run_id("s", payload) == f"s-{hashlib.sha256(plain.encode()).hexdigest()[:10]}"


def test_what_is_not_a_number_has_no_id() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_id("s", {"a": float("nan")})


def test_sections_that_are_equal_and_not_written_alike_keep_their_own_ids() -> None:
    zero, minus = (config(strategy="transfer", training={"weight_decay": value}) for value in (0.0, -0.0))
    assert zero.training == minus.training
    ids = [train_id(one, {}) for one in (zero, minus, zero, minus)]
    assert ids[0] == ids[2] != ids[1] == ids[3]
