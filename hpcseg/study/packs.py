"""What is packed of a dataset: the specification of its pack, "auto" resolved."""

from __future__ import annotations

from pathlib import Path

from hpcseg.config import PreprocessingConfig, RunConfig
from hpcseg.paths import plain_name
from hpcseg.spec import CaseRef, PackSpec, Spacing
from hpcseg.study.catalogue import Catalogue, Classes
from hpcseg.volumes.datasets import Dataset
from hpcseg.volumes.spacing import plan_spacing

CT_PADDING = -1000.0  # HU of air
CT_PYRAMID_CLIP = (-200.0, 400.0)  # HU


def pack_spec(
    config: PreprocessingConfig, dataset: Dataset, cases: tuple[CaseRef, ...], spacing: Spacing, classes: Classes
) -> PackSpec:
    """The pack of some cases of a dataset; id and name are the dataset's.

    What is "auto" is resolved: outside a volume there is air for CT, else the image's minimum; coarser levels are
    clipped to [-200, 400] HU for CT, else not.
    """
    padding = config.padding if config.padding != "auto" else CT_PADDING if dataset.is_ct else "minimum"
    clip = config.pyramid_clip if config.pyramid_clip != "none" else None
    labelled = any(case.label is not None for case in cases)
    return PackSpec(
        id=_name_of_file(dataset),
        dataset=dataset.name,
        cases=cases,
        spacing_zyx=spacing,
        classes=classes,
        padding=padding,
        pyramid_clip=clip if clip != "auto" else CT_PYRAMID_CLIP if dataset.is_ct else None,
        codec=config.codec,
        ignore=dataset.ignore if labelled else None,
    )


def dataset_pack(root: Path, config: RunConfig) -> PackSpec:
    """The pack of all labelled cases of the dataset in `root`, outside of any sweep; "median" is that of all cases.

    Raises:
        BadInput: no dataset there, a bad header, or a foreground value that it does not have.
    """
    catalogue = Catalogue(root.resolve().parent)
    config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": root.resolve().name})})
    dataset, section = catalogue.main(config), config.preprocessing
    spacings = [catalogue.spacing(case.image) for case in dataset.training] if section.spacing == "median" else ()
    return pack_spec(section, dataset, dataset.training, plan_spacing(section, spacings), catalogue.classes(config))


def _name_of_file(dataset: Dataset) -> str:
    """The dataset's name, or its folder's where no file can be called so."""
    try:
        return plain_name(dataset.name)
    except ValueError:
        return dataset.root.resolve().name
