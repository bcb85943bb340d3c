"""Making a chunk store: every case is preprocessed, coded and written; all or nothing. The format: `store`."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hpcseg.config import PreprocessingConfig
from hpcseg.errors import BadInput, HpcsegError, Interrupted
from hpcseg.files import replacing
from hpcseg.spec import CaseRef, PackSpec, Spacing
from hpcseg.volumes.datasets import scan_digest
from hpcseg.volumes.preprocess import merge_labels, n_classes, preprocess
from hpcseg.volumes.pyramid import build_pyramid, choose_coding
from hpcseg.volumes.scans import read_grid, require_same_grid
from hpcseg.volumes.store import CHUNK, FORMAT, LEVELS, VERSION, case_checksum

SAMPLE = 10_000  # foreground voxels kept per class
_POLL_S = 0.5

Progress = Callable[[int, int, str], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class PackedCase:
    """What is written of one case: the attributes of its group and its datasets, by name."""

    name: str
    attributes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def pack(
    spec: PackSpec,
    destination: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> None:
    """Pack all cases of `spec` into the store `destination`; it appears when it is complete, or not at all.

    The result depends neither on `workers` nor on the number of cores.

    Args:
        spec: cases, spacing, classes, padding, clip of the pyramid.
        destination: the file to be made or replaced.
        workers: processes; memory is needed for one case each and one more.
        progress: called after every case with cases done, cases in all, name.
        should_stop: asked between cases; when true, packing is given up.

    Raises:
        BadInput: a scan is missing or bad, a label has no foreground. Nothing is left behind.
        Interrupted: `should_stop` said so. Nothing is left behind.
    """
    check_cases(spec)
    cases = _packed_cases(spec, workers, should_stop or (lambda: False))
    with (
        replacing(destination) as temporary,
        h5py.File(temporary, "w", locking=False) as file,
        contextlib.closing(cases),
    ):
        _write_header(file, spec)
        for done, packed in enumerate(cases, start=1):
            _write_case(file, packed)
            if progress is not None:
                progress(done, len(spec.cases), packed.name)
        file.flush()
        file.attrs["complete"] = True


def check_cases(spec: PackSpec) -> None:
    """Find what is wrong with the cases as far as their headers show, before the long work.

    Raises:
        BadInput: no case, a name used twice, a file missing or with a bad header, a label on another grid.
    """
    if not spec.cases:
        raise BadInput(f"{spec.dataset}: no case to pack; give a dataset with volumes")
    merge_labels(np.zeros((1, 1, 1), dtype=np.uint8), spec.classes)
    names = set()
    for case in spec.cases:
        if case.name in names:
            raise BadInput(f"{case.image}: a second case is named {case.name!r}; rename one of them")
        names.add(case.name)
        grid = read_grid(case.image)
        if case.label is not None:
            require_same_grid(case.label, read_grid(case.label), grid)


def plan_spacing(config: PreprocessingConfig, spacings: Sequence[Spacing]) -> Spacing:
    """Choose the spacing of a store (paper 3.2.1), z, y, x in mm, rounded to 0.001 mm.

    "median": the median of the labelled cases' `spacings` on each axis; if `isotropic`, the largest of the three on
    every axis.

    Raises:
        BadInput: "median" of no case.
    """
    if not isinstance(config.spacing, str):
        wanted = config.spacing if isinstance(config.spacing, tuple) else (config.spacing,) * 3
        return wanted[0], wanted[1], wanted[2]
    if not spacings:
        raise BadInput("preprocessing.spacing: no labelled case to take the median of; give a spacing in mm")
    medians = np.median(np.asarray(spacings, dtype=np.float64), axis=0)
    if config.isotropic:
        medians = np.full(3, medians.max())
    z, y, x = (round(float(value), 3) for value in medians)
    return z, y, x


def pack_case(spec: PackSpec, case: CaseRef) -> PackedCase:
    """Preprocess and code one case.

    Raises:
        BadInput: its scan or label is bad, or the label has no foreground.
    """
    with threadpool_limits(1, user_api="blas"):  # its last bits depend on the number of threads
        done = preprocess(
            case.image, case.label, spacing_zyx=spec.spacing_zyx, classes=spec.classes, padding=spec.padding
        )
    label = done.label_zyx
    if label is not None and not label.any():
        values = sorted(value for group in spec.classes for value in group) or "all but 0"
        raise BadInput(
            f"{case.label}: empty foreground: no voxel of data.foreground ({values}) at {spec.spacing_zyx} mm; "
            "take the case out of dataset.json or change data.foreground"
        )
    coding = choose_coding(done.volume_zyx, done.padding, spec.pyramid_clip)
    pyramid = build_pyramid(done.volume_zyx, done.padding, spec.pyramid_clip, LEVELS)
    arrays: dict[str, NDArray[Any]] = {f"image_{level}": coding.encode(part) for level, part in enumerate(pyramid)}
    arrays |= _histogram("histogram", arrays["image_0"], None)
    if label is not None:
        arrays["label"] = label
        arrays |= _histogram("foreground", arrays["image_0"], label)
        arrays |= _foreground(case.name, label, n_classes(spec.classes))
    else:
        arrays |= _histogram("foreground", arrays["image_0"][:0], None)
    attributes: dict[str, Any] = {
        "slope": coding.slope,
        "intercept": coding.intercept,
        "padding": done.padding,
        "labelled": label is not None,
        "source_digest": scan_digest(case.image),
        "affine": done.grid.affine,
        "file_shape": np.array(done.grid.file_shape),
        "crop": np.array(done.crop),
    }
    attributes["checksum"] = case_checksum(attributes, arrays)
    return PackedCase(case.name, attributes, arrays)


def _histogram(name: str, codes: NDArray[np.int16], label: NDArray[np.uint8] | None) -> dict[str, NDArray[Any]]:
    """Count codes, of the foreground only if a label is given; slice by slice, as counting needs 8 bytes a voxel."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for index, plane in enumerate(codes):
        chosen = plane.ravel() if label is None else plane[label[index] > 0]
        counts += np.bincount(chosen.astype(np.int64) + 32768, minlength=1 << 16)
    found = np.flatnonzero(counts)
    return {f"{name}_codes": (found - 32768).astype(np.int16), f"{name}_counts": counts[found]}


def _foreground(name: str, label: NDArray[np.uint8], classes: int) -> dict[str, NDArray[Any]]:
    """Sample the voxels of each class; the same ones whenever this case is packed from the same label."""
    samples: dict[str, NDArray[Any]] = {}
    for index in range(1, classes):
        voxels = np.flatnonzero(label == index)
        if len(voxels) > SAMPLE:
            generator = np.random.default_rng([zlib.crc32(name.encode()), index])
            voxels = np.sort(generator.choice(voxels, SAMPLE, replace=False, shuffle=False))
        samples[f"foreground_{index}"] = np.stack(np.unravel_index(voxels, label.shape), axis=1).astype(np.int32)
    return samples


def _write_header(file: h5py.File, spec: PackSpec) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["dataset"] = spec.dataset
    file.attrs["id"] = spec.id
    file.attrs["spacing_zyx"] = np.array(spec.spacing_zyx, dtype=np.float64)
    file.attrs["levels"] = LEVELS
    file.attrs["classes"] = json.dumps(spec.classes)
    if spec.pyramid_clip is not None:
        file.attrs["pyramid_clip"] = np.array(spec.pyramid_clip, dtype=np.float64)
    file.create_group("cases")


def _write_case(file: h5py.File, packed: PackedCase) -> None:
    group = file["cases"].create_group(packed.name)
    for key, value in packed.attributes.items():
        group.attrs[key] = value
    for key, array in packed.arrays.items():
        if array.ndim == 3:
            room = tuple(max(n, CHUNK) for n in array.shape)  # h5py wants room for a whole chunk
            group.create_dataset(key, data=array, chunks=(CHUNK,) * 3, maxshape=room)
        else:
            group.create_dataset(key, data=array)


def _packed_cases(spec: PackSpec, workers: int, should_stop: ShouldStop) -> Generator[PackedCase]:
    """Packed cases in the order of `spec`, at most `workers` of them in the making."""

    def go_on(done: int) -> None:
        if should_stop():
            raise Interrupted(f"{spec.dataset}: packing stopped after {done} of {len(spec.cases)} cases; run it again")

    if workers <= 1:
        for done, case in enumerate(spec.cases):
            go_on(done)
            yield pack_case(spec, case)
        return
    left = iter(spec.cases)
    with _processes(workers) as pool:
        making = deque(pool.submit(pack_case, spec, case) for case in itertools.islice(left, workers))
        for done in range(len(spec.cases)):
            first = making.popleft()
            while not wait([first], timeout=_POLL_S).done:
                go_on(done)
            packed = first.result()
            go_on(done)
            making.extend(pool.submit(pack_case, spec, case) for case in itertools.islice(left, 1))
            yield packed


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh worker processes; on the way out, cases that have not begun are dropped."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BrokenProcessPool:
        raise HpcsegError(
            "packing: a worker process died, likely out of memory; give the job fewer workers or more memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
