"""A volume that patches are taken from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpcseg.config import Pair
from hpcseg.patches.resident import ResidentCase, ResidentCases
from hpcseg.patches.sampling import Centre
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.store import StoredCase


@dataclass(frozen=True)
class Source:
    """A stored volume and how its intensities become a network's input.

    Attributes:
        case: the volume.
        normalisation: clips and scales intensities.
        pyramid_clip: of the case's store, which alone knows it.
        resident: the same volume on the device that trains; None: it is read from the store.
        centre_3: of the organ, see `hpcseg.patches.organ`; None: not asked for.
    """

    case: StoredCase
    normalisation: Normalisation
    pyramid_clip: Pair | None
    resident: ResidentCase | None = None
    centre_3: Centre | None = None

    def on_device(self, cases: ResidentCases) -> Source:
        """Return this source with its volume among `cases`, copied there if it is not yet."""
        return replace(self, resident=cases.case(self.case, self.pyramid_clip))
