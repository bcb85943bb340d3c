from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, StageFailed
from hpcseg.jobs.remedies import cuda_words, explained
from hpcseg.spec import AnySpec, PackSpec
from hpcseg.study.plan import Plan

RUN = Path("/runs/train/x")


class OutOfMemoryError(RuntimeError):
    """As torch's, which is known by its name."""


@pytest.fixture
def specs(plan_study: Callable[..., Plan]) -> Callable[..., dict[str, AnySpec]]:
    return lambda *overrides: {planned.spec.stage: planned.spec for planned in plan_study(*overrides).stages.values()}


def test_words_for_the_gpu_name_what_the_run_is_made_of(specs: Callable[..., dict[str, AnySpec]]) -> None:
    found = specs("strategy=[transfer]")
    assert cuda_words(found["train"], "training", True) == (
        "CUDA out of memory in batches of 2 patches of 12³ in bfloat16: reduce training.batch or network.maps, "
        "or ask for a larger GPU ([slurm.train.flags] constraint)"
    )
    assert "batches of 12 patches" in cuda_words(found["pretrain"], "pretraining", True)
    assert "reduce autoencoder.batch or network.maps" in cuda_words(found["pretrain"], "pretraining", False)
    single = specs("training.precision=float32", "strategy=[multitask]")["train"]
    words = cuda_words(single, "training", False)
    assert "batches of 5 + 8 patches" in words and "multitask.autoencoder_batch" in words
    assert "set training.precision = 'bfloat16', or take a larger GPU" in words
    assert "inference.tile than 96" in cuda_words(single, "evaluating", False)


def test_the_error_itself_stays_the_cause(specs: Callable[..., dict[str, AnySpec]]) -> None:
    spec = specs()["train"]
    for error, cause in (
        (OutOfMemoryError("CUDA out of memory"), "cuda-memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/runs/train/x/model.pt"), "disk"),
        (OSError(errno.EFBIG, "File too large"), "disk"),
        (MemoryError(), "memory"),
    ):
        found = explained(error, RUN, spec, "training", False)
        assert isinstance(found, StageFailed) and found.cause == cause and found.__cause__ is error
        assert "\n" not in str(found)
        if cause == "disk":
            assert str(found).startswith("/runs/train/x: ") and "hpcseg sweep goes on from there" in str(found)
    for other in (BadInput("a scan"), ZeroDivisionError(), OSError(errno.EACCES, "denied"), KeyboardInterrupt()):
        assert explained(other, RUN, spec, "training", False) is other
    assert isinstance(specs()["pack"], PackSpec)
