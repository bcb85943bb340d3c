"""What is measured on: a store of synthetic CTs, run directories that train on it, minibatches of random numbers."""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hpcseg.config import RunConfig
from hpcseg.patches.minibatch import Batch
from hpcseg.spec import CaseRef, PackSpec, SourceRef, TrainSpec
from hpcseg.volumes.packed_case import PackedCase
from hpcseg.volumes.pyramid import Coding, build_pyramid
from hpcseg.volumes.resample import resample_cubic
from hpcseg.volumes.store import LEVELS
from hpcseg.volumes.writing import StoreWriter
from tests.benchmarks.figures import Skipped
from tests.gpu.sizes import PAPER, TINY, Sizes, Triple

STORE, FAILED = Path("pack/gpu/store.h5"), Path("no-store.txt")  # below the folder of all runs
PADDING, CLIP = -1000.0, (-200.0, 400.0)
_CODING = Coding(slope=1.0, intercept=0.0)
_FOREGROUND = 10_000  # voxels that a store remembers of a class
_MAKERS = 4  # cases made at a time
_POLL_S = 0.2


def write_store(root: Path, sizes: Sizes) -> None:
    """Write the store of `sizes.volumes` cases below the folder of all runs, without scans."""
    path = root / STORE
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(".making")
    with contextlib.closing(StoreWriter(making, _pack_spec())) as writer:
        with ThreadPoolExecutor(_MAKERS) as pool:
            for case in pool.map(lambda number: synthetic_case(number, sizes.volume_zyx), range(sizes.volumes)):
                writer.add(case)
        writer.finish()
    making.replace(path)


def wait_for_store(root: Path, until: float) -> None:
    """Wait for the store that another process writes (`python -m tests.gpu.material KIND ROOT`).

    Raises:
        Skipped: it could not be written, or not by the time `until`, as `time.monotonic` counts.
    """
    while not (root / STORE).exists():
        if (root / FAILED).exists():
            raise Skipped(f"no store: {(root / FAILED).read_text()}")
        if time.monotonic() > until:
            raise Skipped("the store was not written in time")
        time.sleep(_POLL_S)


def train_spec(name: str, config: RunConfig, volumes: int) -> TrainSpec:
    """A training run on the store: the last case is for validation, the autoencoders see all."""
    cases = tuple(map(case_name, range(volumes)))
    return TrainSpec(
        id=name,
        config=config,
        labelled=SourceRef(store=STORE, cases=cases[:-1]),
        validation=SourceRef(store=STORE, cases=cases[-1:]),
        autoencoder_sources=(SourceRef(store=STORE, cases=cases),) if config.strategy == "multitask" else (),
        spacing_zyx=(1.0, 1.0, 1.0),
        classes=((1,),),
        padding=PADDING,
        pyramid_clip=CLIP,
        validation_scans=(),
    )


def run_folder(root: Path, name: str) -> Path:
    """A new run directory below the folder of all runs."""
    run = root / "train" / name
    run.mkdir(parents=True)
    return run


def configured(config: RunConfig, **changes: Any) -> RunConfig:
    """A configuration with other values: sections are mappings, as in `training={"steps": 3}`."""
    given = config.model_dump()
    for key, value in changes.items():
        given[key] = {**given[key], **value} if isinstance(value, dict) else value
    return RunConfig.model_validate(given)


def random_batch(sizes: Sizes, batch: int, dtype: torch.dtype, device: torch.device, seed: int) -> Batch:
    """A minibatch of all levels: standard normal images, labels of which about a third are 1."""
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randn((batch, 1, edge, edge, edge), generator=generator).to(device, dtype)
        for edge in sizes.geometry.inputs
    ]
    label_BDHW = (torch.rand((batch, *(sizes.geometry.patch,) * 3), generator=generator) < 0.3).long()
    return Batch(images, label_BDHW.to(device))


def case_name(number: int) -> str:
    """Of one of the store's cases."""
    return f"noise_{number:02d}"


def synthetic_case(number: int, shape_zyx: Triple) -> PackedCase:
    """A case like a packed abdominal CT: a body of smooth and of fine noise in air, and an organ in it (class 1)."""
    rng = np.random.default_rng(number)
    knots = tuple(max(2, size // 25) for size in shape_zyx)
    volume = resample_cubic(rng.standard_normal(knots, np.float32) * 40, shape_zyx)
    volume += 12 * rng.standard_normal(shape_zyx, np.float32)
    z, y, x = (((np.arange(size) - size / 2) / size).astype(np.float32) for size in shape_zyx)
    in_plane = y[:, None] ** 2 + x**2
    volume[:, in_plane > 0.45**2] = PADDING
    organ = ((z / 0.3) ** 2)[:, None, None] + (in_plane / 0.22**2)[None] < 1
    volume[organ] += 60
    np.rint(volume, out=volume)
    levels = build_pyramid(volume, PADDING, CLIP, LEVELS)
    label = organ.astype(np.uint8)
    codes = [_CODING.encode(level) for level in levels]
    arrays: dict[str, NDArray[Any]] = {f"image_{level}": part for level, part in enumerate(codes)}
    arrays |= {"label": label, "foreground_1": _some_places(organ, rng)}
    arrays |= _histogram("histogram", codes[0].ravel()) | _histogram("foreground", codes[0][organ])
    attributes = {
        "slope": _CODING.slope,
        "intercept": _CODING.intercept,
        "padding": PADDING,
        "labelled": True,
        "source_digest": f"{number:064x}",
        "affine": np.eye(4),
        "file_shape": np.array(shape_zyx[::-1]),
        "crop": np.array([[0, size] for size in shape_zyx]),
    }
    return PackedCase(case_name(number), attributes, arrays)


def _some_places(organ: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int32]:
    """Places (N, 3) of some of the organ's voxels, in order."""
    voxels = np.flatnonzero(organ)
    chosen = np.sort(rng.choice(voxels, min(_FOREGROUND, len(voxels)), replace=False, shuffle=False))
    return np.stack(np.unravel_index(chosen, organ.shape), axis=1).astype(np.int32)


def _histogram(name: str, codes: NDArray[np.int16]) -> dict[str, NDArray[Any]]:
    counts = np.bincount(codes.astype(np.int32) + 32768, minlength=1 << 16)
    found = np.flatnonzero(counts)
    return {f"{name}_codes": (found - 32768).astype(np.int16), f"{name}_counts": counts[found]}


def _pack_spec(codec: Literal["none"] = "none") -> PackSpec:
    return PackSpec(
        id="gpu",
        dataset="Noise",
        cases=(CaseRef(name=case_name(0), image=Path("none")),),
        spacing_zyx=(1.0, 1.0, 1.0),
        classes=((1,),),
        padding=PADDING,
        pyramid_clip=CLIP,
        codec=codec,
    )


if __name__ == "__main__":
    try:
        write_store(Path(sys.argv[2]), PAPER if sys.argv[1] == "cuda" else TINY)
    except Exception as error:
        (Path(sys.argv[2]) / FAILED).write_text(str(error))
        raise
