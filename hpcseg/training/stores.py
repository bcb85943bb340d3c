"""The stores of one training job: copied to the node where wanted, opened once, and kept where there is room; and where
the organ is in their volumes, located once per run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpcseg.config import Pair, PreprocessingConfig
from hpcseg.errors import StoreError
from hpcseg.files import read_json, write_json
from hpcseg.host import available_memory
from hpcseg.patches.organ import OrganFinder, labelled_organ
from hpcseg.patches.resident import ResidentCases, resident_bytes
from hpcseg.patches.source import Source
from hpcseg.patches.tiers import Extent, FreeMemory, StoreReading, choose_tier, explain_choice, read_into_memory
from hpcseg.paths import ORGAN_FILE
from hpcseg.spec import Reading, SourceRef
from hpcseg.training.control import Control
from hpcseg.training.ranks import Ranks
from hpcseg.volumes.node_copy import copy_to_node
from hpcseg.volumes.normalise import normalisation, percentile_window
from hpcseg.volumes.store import Store, StoredCase


class Stores:
    """Opens each store once, for as long as `stack` lives; says on standard output how each is read.

    Args:
        root: folder of all runs.
        stack: closes the stores, and ends what goes on for them.
        refs: the cases that patches are read from.
        reading: the user's choice of how.
        control: shows how far copying is.
        gpu: the device that trains, where it may keep volumes; else None.

    Attributes:
        report: how each store is read.

    Raises:
        StoreError: a store is missing or damaged.
        Interrupted: the job was asked to stop while a store was copied.
        BadInput: a tier is wanted that this node does not have.
    """

    def __init__(
        self,
        root: Path,
        stack: ExitStack,
        refs: Iterable[SourceRef],
        reading: Reading,
        control: Control,
        gpu: torch.device | None,
    ) -> None:
        self._root, self._stack, self._reading, self._control, self._gpu = root, stack, reading, control, gpu
        self._open: dict[Path, Store] = {}
        self._resident: ResidentCases | None = None
        self.report = self._open_all(refs)

    def window(self, config: PreprocessingConfig, labelled: SourceRef) -> Pair | None:
        """See `clip_window`."""
        return clip_window(self._store(labelled.store), config, labelled) if config.intensity == "percentile" else None

    def sources(self, config: PreprocessingConfig, refs: Sequence[SourceRef], window: Pair | None) -> list[Source]:
        """Cases with the normalisation of each."""
        found = []
        for ref in refs:
            store = self._store(ref.store)
            for case in self._cases(ref):
                source = Source(case, normalisation(config, case.histogram, window), store.pyramid_clip)
                found.append(source if self._resident is None else self._uploaded(source, self._resident))
        return found

    def _uploaded(self, source: Source, resident: ResidentCases) -> Source:
        self._control.beat(phase="copying to the GPU")
        self._control.stop_here("stopped while volumes were copied to the GPU")
        return source.on_device(resident)

    def _open_all(self, refs: Iterable[SourceRef]) -> list[StoreReading]:
        """Copy, open, choose where the bytes are to be, and begin to bring them there."""
        refs, cases = list(refs), dict[Path, set[str]]()
        for ref in refs:
            cases.setdefault(ref.store, set()).update(ref.cases)
        stores = {path: self._store(path, on_node=True) for path in cases}
        needed = {path: [stores[path].case(name) for name in sorted(names)] for path, names in cases.items()}
        decoded = resident_bytes(case for ref in refs for case in self._cases(ref))
        extents: list[Extent] = [(case.path, *case.extent) for found in needed.values() for case in found]
        free = FreeMemory(ram=available_memory(), gpu=None if self._gpu is None else _free_memory(self._gpu))
        tier = choose_tier(sum(size for _, _, size in extents), decoded, free, self._reading.tier)
        why = explain_choice(tier, free, self._reading.tier)
        report = [
            StoreReading(
                str(store.attrs["id"]), store.nbytes, len(cases[path]), len(store.names), tier, store.path, why
            )
            for path, store in stores.items()
        ]
        for line in report:
            _say(line.describe())
        if tier == "gpu":
            assert self._gpu is not None
            self._resident = ResidentCases(self._gpu)
        elif tier == "ram":
            self._stack.enter_context(read_into_memory(extents, _say))
        return report

    def _cases(self, ref: SourceRef) -> list[StoredCase]:
        """Its cases, with the labels that it names."""
        cases = [*map(self._store(ref.store).case, ref.cases)]
        if ref.labels is None:
            return cases
        labels = self._store(ref.labels, on_node=True)
        return [case.with_labels(labels.case(case.name)) for case in cases]

    def _store(self, path: Path, *, on_node: bool = False) -> Store:
        if path not in self._open:
            place = self._root / path
            copy = self._on_node(place) if on_node else place
            try:
                store = Store(copy, verify=True)
            except StoreError as error:
                if copy == place:
                    raise
                self._remove_damaged(copy, error)
                store = Store(place, verify=True)
            if copy != place:
                self._stack.push(lambda _, error, __: self._remove_damaged(copy, error))
            self._open[path] = self._stack.enter_context(store)
        return self._open[path]

    def _remove_damaged(self, copy: Path, error: BaseException | None) -> None:
        """Remove a store's copy on the node if what was read there was damaged: the next attempt copies it anew."""
        if isinstance(error, StoreError) and str(error).startswith(f"{copy}:"):
            with suppress(OSError):
                copy.unlink(missing_ok=True)
            _say(f"{copy}: a damaged copy ({error}); it is removed, and the original is read from now on")

    def _on_node(self, store: Path) -> Path:
        if not self._reading.stage:
            return store
        done = copy_to_node(store, self._reading.stage, self._copying)
        _say(done.message)
        self._control.beat(phase="reading")
        return done.path

    def _copying(self, done: int, size: int) -> None:
        self._control.beat(phase="copying to the node", step=done >> 20, steps=size >> 20)
        self._control.stop_here("stopped while a store was copied")


def clip_window(store: Store, config: PreprocessingConfig, labelled: SourceRef) -> Pair | None:
    """Clip window from the foreground of the labelled cases, where the intensity method takes one."""
    if config.intensity != "percentile":
        return None
    return percentile_window([store.case(name) for name in labelled.cases], config.percentiles)


def _free_memory(device: torch.device) -> int:
    free: int = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return free


def _say(line: str) -> None:
    print(line, flush=True)


def around_organ(
    run: Path, labelled: Sequence[Source], sources: Sequence[Source], control: Control, ranks: Ranks
) -> list[Source]:
    """Return `sources` with the centre of the organ: known where the volume is among `labelled`, else estimated.

    It is kept in `organ.json` of the run directory, so that a resumed job does not look again.

    Args:
        run: the run directory.
        labelled: volumes whose labels the run may use.
        sources: to be located.
        control: shows how far it is.
        ranks: who train together; the first one looks.

    Raises:
        BadInput: no labelled volume shows the organ.
        Interrupted: the job was asked to stop.
    """
    with ranks.together():
        if ranks.leads and not (run / ORGAN_FILE).exists():
            write_json(run / ORGAN_FILE, _locate(labelled, sources, control))
    places = ranks.of_leader(lambda: read_json(run / ORGAN_FILE))
    located = zip(sources, places, strict=True)
    return [replace(source, centre_3=tuple(place["centre_3"])) for source, place in located]


def _locate(labelled: Sequence[Source], sources: Sequence[Source], control: Control) -> list[dict[str, Any]]:
    """The organ of each source, in order, as JSON."""
    known = {source.case: labelled_organ(source.case) for source in labelled}
    finder = OrganFinder(labelled)
    places = []
    for done, source in enumerate(sources):
        control.beat(phase="locating the organ", step=done, steps=len(sources))
        control.stop_here("stopped while the organ was located")
        organ = known.get(source.case) or finder.find(source)
        places.append({"case": source.case.name, **organ._asdict()})
    return places
