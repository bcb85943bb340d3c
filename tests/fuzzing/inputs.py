"""What users write: datasets, splits, scans, sweep files, job profiles, settings. Another content is another input.

Where an independent reader knows the format, it says what is to be found.
"""

from __future__ import annotations

import gzip
import json
import random
import struct
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hpcseg.errors import BadInput
from hpcseg.inspection.dataset_findings import inspect_dataset, inspect_scan
from hpcseg.results.tables.published import read_publication
from hpcseg.screens.inspection import report_tables
from hpcseg.study.grids import expand
from hpcseg.study.keys import parse_config, parse_setting, run_keys
from hpcseg.study.packs import dataset_pack
from hpcseg.study.plan import make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.profile import read_profile, resolve
from hpcseg.volumes.datasets import case_groups, open_dataset
from hpcseg.volumes.scans import read_grid, read_image, read_label
from hpcseg.volumes.splits import read_splits
from tests.fuzzing.judging import Format, Words
from tests.fuzzing.mutations import BYTES, JSON, Mutation, changed_lines, changed_toml
from tests.fuzzing.study import Study

PROFILE = b"""\
[local]
slots = 2
threads = 1
stage = "/scratch/$USER"
tier = "auto"

[slurm]
partition = "gpu"
account = "me"
setup = ["module load python"]
exclude = ["n1", "n2"]
flags = { constraint = "a100", nice = 10 }
kernels = "auto"

[slurm.budgets]
node = 3
memory = 2

[slurm.train]
time = "2-00:00:00"
memory = "32G"
gpus = 1
cpus = 8
signal_lead = 300
"""


def dataset(study: Study, words: Words) -> Any:
    """dataset.json: the cases that it lists are those that are found."""
    root = study.folder / "data" / "Tiny"
    found = open_dataset(root)
    open_dataset(root, files_must_exist=False)
    listed = json.loads((root / "dataset.json").read_bytes())
    if "channel_names" not in listed:
        given = [item["image"] for item in listed.get("training", [])]
        if sorted(map(str, (case.image for case in found.training))) != sorted(str(root / image) for image in given):
            raise AssertionError(f"{given}, but {found.training}")
    words.attempt(lambda: case_groups(found, "pairs"))
    words.attempt(lambda: dataset_pack(root, parse_config(["preprocessing.spacing=2.0"])))
    words += found.notes
    return found.training, found.test, found.labels, found.modality, found.name


def inspected(study: Study, words: Words) -> Any:
    """`hpcseg inspect` of the dataset, whose scans are missing for once: they are other formats."""
    root = study.folder / "data" / "Tiny"
    images = root / "imagesTr"
    images.rename(root / "away")
    try:
        seen = inspect_dataset(root)
    finally:
        (root / "away").rename(images)
    list(report_tables(seen))
    return dataset(study, words)


def splits(name: str) -> Callable[[Study, Words], Any]:
    """Given splits: every case is one of the dataset, and on one side."""

    def look(study: Study, words: Words) -> Any:
        groups = {f"case_{number:03d}": f"case_{number:03d}" for number in range(1, 5)}
        given = read_splits(study.folder / "data" / "Tiny" / name, groups)
        found = []
        for fold in range(2):
            split = words.attempt(partial(given.split, fold=fold, labelled="all", folds=2, seed=0))
            if split is not None and set(split.labelled) & {*split.validation, *split.test}:
                raise AssertionError(f"on two sides: {split}")
            found.append(split)
        return found

    return look


def groups(study: Study, words: Words) -> Any:
    """Patients of cases."""
    found = open_dataset(study.folder / "data" / "Tiny")
    return case_groups(found, "groups.json")


def sweep(study: Study, words: Words) -> Any:
    """A sweep file: values are those that TOML has there."""
    path = study.folder / "study.toml"
    made = read_sweep(path)
    cells = expand(made)
    for block, grid in zip(tomllib.loads(path.read_text("utf-8-sig")).get("grid", [{}]), made.grids, strict=True):
        for key, values in grid.axes.items():
            given = block.get(key)
            if given is not None and repr(given) not in {repr(values), repr(values[0])}:
                raise AssertionError(f"{key} = {given}, but {values}")
    for cell in cells:
        _as_given(made.run | cell.axes, cell.config.model_dump(mode="json"))
    if len(cells) < 50 and (study.folder / "data").exists():
        words.attempt(lambda: make_plan(made, study.folder / "data", study.folder / "elsewhere"))
    return [(cell.grid, cell.axes, cell.config.model_dump(mode="json")) for cell in cells], made.tables, made.figures


def _as_given(given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise AssertionError where a number of a configuration is not the one that was given for it."""
    for key, value in given.items():
        found: Any = config
        for part in key.split("."):
            found = found[part]
        if (isinstance(value, bool) and not isinstance(found, bool)) or (isinstance(found, int) and found != value):
            raise AssertionError(f"{key} = {value!r}, but {found!r}")


def profile(study: Study, words: Words) -> Any:
    """A job profile."""
    path = study.folder / "profile.toml"
    found = read_profile(str(path), "slurm")
    words.attempt(lambda: resolve(found.local, runs=4, packs=1, cores=8, gpus=0, memory_gib=32.0))
    found.slurm.asks("train")
    return found.model_dump(mode="json")


def setting(study: Study, words: Words) -> Any:
    """`--set`, in a sweep and alone."""
    text = (study.folder / "setting").read_bytes().decode(errors="surrogateescape")
    config = parse_config([text])
    key, value = parse_setting(text)
    _as_given({key: value}, config.model_dump(mode="json"))
    cells = words.attempt(lambda: expand(read_sweep(study.folder / "study.toml", [text])))
    return config.model_dump(mode="json"), cells and [cell.config.model_dump(mode="json") for cell in cells]


def published(study: Study, words: Words) -> Any:
    """`collect --against`."""
    return read_publication(str(study.folder / "against.toml")).model_dump()


def any_setting(draw: random.Random, _: bytes) -> bytes:
    """Any key with a value that suits few."""
    key = draw.choice(sorted(run_keys()))
    return changed_toml(draw, f"{key} = 1".encode()).replace(b" = ", b"=", 1)


def scan(name: str) -> Callable[[Study, Words], Any]:
    """A scan: what nibabel reads there, or a refusal."""

    def look(study: Study, words: Words) -> Any:
        path = study.folder / name
        seen = inspect_scan(path)
        list(report_tables(seen))
        words += [*seen["problems"], *seen["warnings"]]
        try:
            read_grid(path)
            volume, grid = read_image(path)
        except BadInput as error:
            if not seen["problems"]:
                raise AssertionError("inspect found nothing") from error
            raise
        image: Any = nib.load(path)
        with np.errstate(all="ignore"):
            values = np.asarray(image.dataobj, dtype=np.float64).reshape(grid.file_shape).astype(np.float32)
        if not np.array_equal(np.asarray(grid.to_file(volume)), values) or not np.isfinite(volume).all():
            raise AssertionError("other voxels than nibabel reads")
        return volume.tobytes(), grid.affine.tolist(), grid.unit

    return look


def label(study: Study, words: Words) -> Any:
    """A label: the whole numbers that nibabel reads there."""
    path = study.folder / "label.nii"
    grid = read_grid(study.folder / "data" / "Tiny" / "imagesTr" / "case_001.nii.gz")
    found = read_label(path, grid)
    values = np.asarray(nib.load(path).dataobj, dtype=np.float64).reshape(grid.file_shape)  # type: ignore[attr-defined]
    if not np.array_equal(grid.to_file(found), np.rint(values)):
        raise AssertionError("other labels than nibabel reads")
    return found.tobytes()


_FIELDS = {  # of NIfTI-1: offset, format, values
    "sizeof_hdr": (0, "i", (0, 348, 540, -1, 1543569408)),
    **{f"dim{n}": (40 + 2 * n, "h", (-1, 0, 1, 2, 5, 7, 8, 300, 30000, 32767, -32768)) for n in range(8)},
    "datatype": (70, "h", (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2304, 999)),
    "bitpix": (72, "h", (0, 1, 8, 16, 32, 64, 128, -8)),
    **{f"pixdim{n}": (76 + 4 * n, "f", (0, -1, 1e-30, 1e30, 2, np.nan, np.inf, -0.0)) for n in range(8)},
    "vox_offset": (108, "f", (0, -1, 348, 352, 352.5, 1e9, 1e38, np.nan, np.inf, -np.inf)),
    "scl_slope": (112, "f", (0, 1, -1, 0.1, 1e-38, 1e38, np.nan, np.inf, -np.inf)),
    "scl_inter": (116, "f", (0, 1, -1000, 1e38, np.nan, np.inf)),
    "xyzt_units": (123, "B", (0, 1, 2, 3, 10, 255)),
    "intent": (68, "h", (0, 2, 1001, 9999, -1)),
    "qform": (252, "h", (0, 1, 2, 9, -1)),
    "sform": (254, "h", (0, 1, 2, 9, -1)),
    **{f"quatern{n}": (256 + 4 * n, "f", (0, 1, 2, 0.5, -0.7, np.nan, np.inf, 1e30)) for n in range(6)},
    **{f"srow{n}": (280 + 4 * n, "f", (0, 1, -1, 1e-30, 1e30, np.nan, np.inf)) for n in range(12)},
    "magic": (344, "4s", (b"ni1\0", b"n+2\0", b"\0\0\0\0", b"n+1x")),
}


def changed_header(draw: random.Random, content: bytes) -> bytes:
    """One or two fields of the header say something else; or its bytes are the other way round."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2))):
        offset, kind, values = _FIELDS[draw.choice(sorted(_FIELDS))]
        struct.pack_into(f"<{kind}", changed, offset, draw.choice(values))
    if draw.random() < 0.1:
        at = draw.randrange(0, 340)
        changed[at : at + 4] = changed[at : at + 4][::-1]
    return bytes(changed)


def regzip(_: Path, mutation: Mutation, draw: random.Random, content: bytes) -> bytes:
    """Change what is in a gzip file, and make its checksum anew."""
    return gzip.compress(mutation(draw, gzip.decompress(content)), 1)


def _tiny(name: str) -> Callable[[Study], bytes]:
    return lambda study: (study.folder / "data" / "Tiny" / name).read_bytes()


def _nifti(name: str) -> Callable[[Study], bytes]:
    return lambda study: gzip.decompress(_tiny(name)(study))


def _at(name: str) -> Callable[[Study], Path]:
    return lambda study: study.folder / name


def _file(name: str, path: str, look: Any, forged: tuple[Mutation, ...], content: Any = None, **more: Any) -> Format:
    given = (lambda _: content) if isinstance(content, bytes) else content
    return Format(name, _at(path), look, forged=forged, content=given, **more)


_IN = "data/Tiny/"
_SPLITS = json.dumps(
    [{"train": ["case_001", "case_002"], "val": ["case_003"]}, {"train": ["case_003", "case_004"], "val": ["case_001"]}]
).encode()
_ROWS = b"case,fold,role,rank\ncase_001,0,labelled,1\ncase_002,0,labelled,2\ncase_003,0,validation,\ncase_004,,test,\n"
_ROWS += b"case_001,1,labelled,1\ncase_002,1,unlabelled,\ncase_003,1,validation,\n"
_GROUPS = json.dumps({"patient_groups": {"a": ["case_001", "case_002"], "b": ["case_003"]}}).encode()
_AGAINST = b"""label = "they"
dataset = "Tiny"

[tables.dsc]
rows = [0, 1]
columns = [0, 1]
metric = "dsc"
sets.validation = [[[0.5, 0.1], [0.6, 0.1]], [[0.7, 0.2], [0.8, 0.2]]]
"""
TOML: tuple[Mutation, ...] = (*BYTES, *(changed_toml,) * 6)
_HEADER: tuple[Mutation, ...] = (*BYTES, *(changed_header,) * 6)
_CASE = "imagesTr/case_001.nii.gz"

FORMATS = (
    _file("dataset.json", f"{_IN}dataset.json", inspected, JSON),
    _file("splits.json", f"{_IN}splits.json", splits("splits.json"), JSON, _SPLITS),
    _file("splits.csv", f"{_IN}splits.csv", splits("splits.csv"), (*BYTES, changed_lines, changed_lines), _ROWS),
    _file("groups.json", f"{_IN}groups.json", groups, JSON, _GROUPS),
    _file("sweep.toml", "study.toml", sweep, TOML),
    _file("profile.toml", "profile.toml", profile, TOML, PROFILE),
    _file("against.toml", "against.toml", published, TOML, _AGAINST),
    _file("setting", "setting", setting, (*BYTES, *(any_setting,) * 8), b"training.epochs=3"),
    _file("scan.nii", "scan.nii", scan("scan.nii"), _HEADER, _nifti(_CASE)),
    Format("scan.nii.gz", _at("scan.nii.gz"), scan("scan.nii.gz"), BYTES, _HEADER, regzip, content=_tiny(_CASE)),
    _file("label.nii", "label.nii", label, _HEADER, _nifti("labelsTr/case_001.nii.gz")),
)
