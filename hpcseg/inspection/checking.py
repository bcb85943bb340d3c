"""Whether a store is as it was packed: every byte of the file is compared, and what differs is named."""

from __future__ import annotations

from pathlib import Path

from hpcseg.errors import StoreError
from hpcseg.volumes.seal import Progress, file_digest, read_seal
from hpcseg.volumes.store import Store


def check_store(path: Path, progress: Progress | None = None) -> list[str]:
    """Compare every byte of a store with what was packed; reads all of the file.

    Args:
        path: of the store.
        progress: called with parts done, parts in all, name of the file.

    Returns:
        One line per problem; empty if the store is as it was packed.
    """
    try:
        with Store(path) as store:
            if file_digest(path, progress) == read_seal(path).digest:
                return []
            found = [
                f"{path}: case {name!r}: {problem}; delete the store and pack again"
                for name in store.names
                for problem in store.case(name).problems()
            ]
            return found or [
                f"{path}: HDF5's own structures were altered, a key may be missing; delete the store and pack again"
            ]
    except StoreError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror or error})"]
