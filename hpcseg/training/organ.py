"""Where an autoencoder's patches are drawn around: the organ of every volume, located once per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcseg.files import read_json, write_json
from hpcseg.patches.organ import OrganFinder, labelled_organ
from hpcseg.patches.source import Source
from hpcseg.paths import ORGAN_FILE
from hpcseg.training.control import Control
from hpcseg.training.ranks import Ranks


def around_organ(
    run: Path, labelled: Sequence[Source], sources: Sequence[Source], control: Control, ranks: Ranks
) -> list[Source]:
    """Return `sources` with the centre of the organ: known where the volume is among `labelled`, else estimated.

    It is kept in `organ.json` of the run directory, so that a resumed job does not look again.

    Args:
        run: the run directory.
        labelled: volumes whose labels the run may use.
        sources: to be located.
        control: hears how far it is.
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
