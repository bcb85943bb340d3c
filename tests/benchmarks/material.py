"""What is measured on: phantoms and stores, made once and kept in `.bench/` until the code that makes them changes."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import hpcseg.phantoms
import hpcseg.volumes
from hpcseg.host import usable_cores
from hpcseg.phantoms.dataset import write_phantoms
from hpcseg.spec import CaseRef, PackSpec, Spacing
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".bench"
REAL = ROOT.parent / "shared" / "data"
ROOM = Path(hpcseg.volumes.__file__).parent
CLASSES = ((1,), (2,))  # liver, tumour
PADDING = -1000.0
PYRAMID_CLIP = (-200.0, 400.0)


def kept(name: str, depends: Iterable[Path | str], make: Callable[[Path], object]) -> Path:
    """Path of `name` in `.bench/`; made by `make(path)` if it is not there or what it `depends` on has changed.

    Args:
        name: of a file or folder, with its ending.
        depends: files, whose content counts, and words.
        make: writes the file or folder.
    """
    digest = hashlib.sha256()
    for one in depends:
        digest.update(one.read_bytes() if isinstance(one, Path) else one.encode())
        digest.update(b"\0")
    stem, ending = Path(name).stem, Path(name).suffix
    path = KEPT / f"{stem}-{digest.hexdigest()[:12]}{ending}"
    if not path.exists():
        KEPT.mkdir(exist_ok=True)
        for old in KEPT.glob(f"{stem}-*{ending}"):
            remove(old)
        with tempfile.TemporaryDirectory(dir=KEPT, prefix="making-") as folder:
            making = Path(folder) / name
            make(making)
            making.rename(path)
    return path


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def phantoms(count: int, size: int) -> Path:
    """Dataset of `count` labelled CT phantoms, `size` voxels across."""
    drawn_by = sorted(Path(hpcseg.phantoms.__file__).parent.glob("*.py"))
    return kept(
        f"phantoms{size}",
        [*drawn_by, f"{count} of {size}"],
        lambda folder: write_phantoms(folder, training=count, test=0, size=size),
    )


def large_store() -> Path:
    """Store of 4 labelled phantoms at 1 mm: about 220 × 350 × 350 voxels each, as many as 300³."""
    dataset = phantoms(4, 256)
    return _packed("large.h5", dataset, open_dataset(dataset).training, (1.0, 1.0, 1.0))


def small_store() -> Path:
    """Store of 20 labelled cases of about 40 × 60 × 60 voxels."""
    dataset = phantoms(20, 64)
    return _packed("small.h5", dataset, open_dataset(dataset).training, (6.0, 6.0, 6.0))


def store_of_1000() -> Path:
    """Store of 1,000 labelled cases of about 40 × 60 × 60 voxels: 20 phantoms under 50 names each."""
    dataset = phantoms(20, 64)
    scans = open_dataset(dataset).training
    cases = tuple(
        scan.model_copy(update={"name": f"{scan.name}_{copy:02d}"}) for scan in scans for copy in range(1000 // 20)
    )
    return _packed("thousand.h5", dataset, cases, (6.0, 6.0, 6.0))


def pack_spec(dataset: str, cases: tuple[CaseRef, ...], spacing_zyx: Spacing) -> PackSpec:
    """Specification that packs CT cases with liver and tumour."""
    return PackSpec(
        id="bench",
        dataset=dataset,
        cases=cases,
        spacing_zyx=spacing_zyx,
        classes=CLASSES,
        padding=PADDING,
        pyramid_clip=PYRAMID_CLIP,
    )


def _packed(name: str, dataset: Path, cases: tuple[CaseRef, ...], spacing_zyx: Spacing) -> Path:
    spec = pack_spec("Phantoms", cases, spacing_zyx)
    return kept(
        name,
        [*sorted(ROOM.glob("*.py")), spec.model_dump_json()],
        lambda path: pack(spec, path, workers=usable_cores()),
    )
