"""Whether two datasets number their labels alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpcseg.errors import BadInput
from hpcseg.volumes.datasets import Dataset


def check_same_numbering(dataset: Dataset, test: Dataset, classes: Iterable[Sequence[int]]) -> list[str]:
    """Refuse a test set that has a foreground label of the training set under another number; notes on other names.

    Args:
        dataset: of the training cases.
        test: of the test cases.
        classes: label values of each class; (): every value but 0 is one.

    Raises:
        BadInput: naming the label and its number there.
    """
    notes, both = [], f"{dataset.root.name} and {test.root.name}"
    for value in (value for values in classes for value in values):
        name, theirs = dataset.labels.get(value, "").lower(), test.labels.get(value)
        elsewhere = [number for number, other in test.labels.items() if other.lower() == name and number != value]
        if theirs is not None and theirs.lower() == name:
            continue
        if elsewhere:
            there = f"{'no label' if theirs is None else repr(theirs)} in {test.root.name}"
            raise BadInput(
                f"data.foreground: {value} is {name!r} in {dataset.root.name}, but {there}, whose {name!r} is "
                f"{elsewhere[0]}; set data.test_foreground"
            )
        if theirs is not None:
            notes.append(f"label {value} of {both} is {name!r} and {theirs!r}: taken for the same")
    others = [] if classes else sorted(test.labels.keys() - dataset.labels.keys() - {0, test.ignore})
    if others:
        notes.append(f"labels {', '.join(map(str, others))} of {test.root.name} alone count as foreground")
    return [f"data.test: {note}; set data.test_foreground if it is not" for note in notes]
