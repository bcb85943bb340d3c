"""Figures of other tools' patch loaders, measured in their own environment beside ours, on the same volumes.

Each supplies plain 84³ patches of image and label (the size of our finest level's input), in one process, without
augmentation; ours supplies whole foveal samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from hpcseg.inference.segment import Segmenter
from hpcseg.volumes.store import Store, StoredCase
from tests.benchmarks import material, segmentation
from tests.benchmarks.figures import Figure, Measured, at_least, benchmark
from tests.benchmarks.hardware import package_version
from tests.benchmarks.patches import SAMPLES, Reader
from tests.benchmarks.timing import fastest, interleaved, median_ratio, one_thread, seconds, two_threads, warm_file
from tests.inference.untrained import CPU

EDGE = 84
PEERS_BATCH = 2
WINDOW = (-160.0, 240.0)
NNUNET_PLAN = {
    "patch_size": [128, 128, 128],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 6,
            "features_per_stage": [32, 64, 128, 256, 320, 320],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 6,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
            "n_conv_per_stage": [2] * 6,
            "n_conv_per_stage_decoder": [2] * 5,
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    },
}
SEEN = "4 phantoms of about 300³ voxels, 84³ image and label, one process, no augmentation"


@benchmark(
    Figure(
        "patch_vs_nnunet",
        "our foveal samples per second over nnU-Net's plain patches",
        "×",
        f"`nnUNetDataLoader` on `nnUNetDatasetBlosc2` as its preprocessor writes it, batch 2, 33 % foreground, and our "
        f"samples (as `patch_ms`) in turn; {SEEN}; median of 11 rounds' ratios",
        at_least(4),
    ),
    peers=True,
)
def nnunet() -> Measured:
    """The loader of nnU-Net v2."""
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    store = material.large_store()
    depends: list[Path | str] = [Path(__file__), store.name, package_version("nnunetv2")]
    folder = material.kept("nnunet", depends, lambda made: write_nnunet(store, made))
    size = (EDGE,) * 3
    labels = LabelManager({"background": 0, "liver": 1, "tumour": 2}, None)
    data = nnUNetDatasetBlosc2(str(folder))
    loader = nnUNetDataLoader(data, PEERS_BATCH, size, size, labels, oversample_foreground_percent=0.33)
    np.random.seed(0)  # the loader draws from it

    def patches() -> int:
        for _ in range(16):
            assert next(loader)["data"].shape == (PEERS_BATCH, 1, *size)
        return 16 * PEERS_BATCH

    peer, ours, ratio = beside(patches, store, folder, rounds=11)
    details = {f"nnU-Net {package_version('nnunetv2')}": f"{peer:.2f} ms a patch; hpcseg {ours:.2f} ms a sample"}
    return Measured({"patch_vs_nnunet": ratio}, details)


@benchmark(
    Figure(
        "segment_vs_nnunet",
        "speed of segmenting a whole CT over nnU-Net's predictor",
        "×",
        f"{segmentation.SCAN}; `nnUNetPredictor` as it comes (half overlapping patches of 128³, Gaussian weights, all "
        "mirrored versions) with the network that it plans for such CTs, random weights, on the same grid: seconds of "
        "one patch times those that it counts, without reading, resampling and writing",
        at_least(3),
    ),
    peers=True,
)
def nnunet_predictor() -> Measured:
    """The predictor of nnU-Net v2."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.manual_seed(0)
    classes = {"background": 0, "liver": 1}
    plans = PlansManager({"label_manager": "LabelManager", "configurations": {"3d_fullres": NNUNET_PLAN}})
    fullres, dataset = plans.get_configuration("3d_fullres"), {"labels": classes, "file_ending": ".nii.gz"}
    kind, arguments = fullres.network_arch_class_name, fullres.network_arch_init_kwargs
    imported = fullres.network_arch_init_kwargs_req_import
    network = get_network_from_plans(kind, arguments, imported, 1, len(classes), deep_supervision=False)
    weights = [network.state_dict()]
    part, segmenter = segmentation.part_of_the_scan(), Segmenter(segmentation.paper_model(), device=CPU)
    planes, *plane = segmenter.read(part).volume.shape_zyx
    image = torch.randn(1, *fullres.patch_size)
    taken, count = [], 0
    with two_threads():
        for mirroring in (False, True):
            predictor = nnUNetPredictor(
                use_mirroring=mirroring, perform_everything_on_device=False, device=CPU, allow_tqdm=False
            )
            predictor.manual_initialization(network, plans, fullres, weights, dataset, "nnUNetTrainer", (0, 1, 2))
            taken.append(seconds(partial(predictor.predict_sliding_window_return_logits, image)))
            count = len(predictor._internal_get_sliding_window_slicers((planes * segmentation.TIMES, *plane)))
        ours = segmentation.TIMES * seconds(lambda: segmenter.segment(part))
    plain, mirrored = (count * one for one in taken)
    return Measured(
        {"segment_vs_nnunet": mirrored / ours},
        {
            f"nnU-Net {package_version('nnunetv2')}": f"{count} patches, {mirrored:,.0f} s a scan; hpcseg {ours:.0f} s",
            "without mirrored versions": f"{plain:,.0f} s: {plain / ours:.1f} ×",
        },
    )


@benchmark(
    Figure(
        "monai_ms",
        "one plain patch of MONAI's CacheDataset",
        "ms",
        f"everything cached, `RandCropByPosNegLabeld` of one patch a volume, batch 2; {SEEN}; fastest of 3 rounds",
    ),
    peers=True,
)
def monai() -> Measured:
    """MONAI's CacheDataset, as its tutorials set it up."""
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        FgBgToIndicesd,
        LoadImaged,
        RandCropByPosNegLabeld,
        ScaleIntensityRanged,
    )

    store = material.large_store()
    folder = nifti_folder(store, "nii")
    keys = ["image", "label"]
    files = [{"image": image, "label": label} for image, label in pairs(folder)]
    prepare = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        ScaleIntensityRanged(["image"], *WINDOW, 0.0, 1.0, clip=True),
    ]

    def measure(prepare: list[Callable[..., object]], samples: int = 1, **options: object) -> tuple[float, ...]:
        indices = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"} if options else {}
        crop = RandCropByPosNegLabeld(keys, "label", (EDGE,) * 3, num_samples=samples, **indices)
        data = CacheDataset(files, Compose([*prepare, crop]), progress=False, **options)
        loader = DataLoader(data, batch_size=PEERS_BATCH, shuffle=True)
        return beside(lambda: sum(len(batch["image"]) for batch in loader), store, folder, rounds=3)

    peer, ours, ratio = measure(prepare)
    four, _, _ = measure(prepare, samples=4)
    best, _, _ = measure([*prepare, FgBgToIndicesd("label")], copy_cache=False)
    return Measured(
        {"monai_ms": peer},
        {
            f"MONAI {package_version('monai')}": f"{ratio:.0f} × the time of a foveal sample of ours ({ours:.2f} ms)",
            "four patches a volume": f"{four:.1f} ms a patch",
            "`FgBgToIndicesd` cached, `copy_cache=False`": f"{best:.1f} ms a patch",
        },
    )


@benchmark(
    Figure(
        "torchio_ms",
        "one plain patch of TorchIO's Queue",
        "ms",
        "`Queue(max_length=300, samples_per_volume=10)` with a `UniformSampler`, as in its documentation, on .nii.gz "
        f"files, as data sets come; {SEEN}; fastest of 2 epochs",
    ),
    peers=True,
)
def torchio() -> Measured:
    """TorchIO's Queue."""
    import torchio as tio

    store = material.large_store()

    def measure(ending: str) -> tuple[float, float, float]:
        folder = nifti_folder(store, ending)
        subjects = tio.SubjectsDataset(
            [tio.Subject(image=tio.ScalarImage(image), label=tio.LabelMap(label)) for image, label in pairs(folder)]
        )
        queue = tio.Queue(subjects, 300, 10, tio.UniformSampler(EDGE), num_workers=0)
        loader = tio.SubjectsLoader(queue, batch_size=PEERS_BATCH, num_workers=0)
        return beside(lambda: sum(len(batch["image"]["data"]) for batch in loader), store, folder, rounds=2)

    peer, ours, ratio = measure("nii.gz")
    plain, _, _ = measure("nii")
    version = package_version("torchio")
    return Measured(
        {"torchio_ms": peer},
        {
            f"TorchIO {version}": f"{ratio:.0f} × the time of a foveal sample of ours ({ours:.2f} ms)",
            "on uncompressed NIfTI": f"{plain:.1f} ms a patch",
        },
    )


def beside(patches: Callable[[], int], store: Path, folder: Path, *, rounds: int) -> tuple[float, float, float]:
    """Time a peer and our loader in turn, one thread each.

    Args:
        patches: the peer supplies some patches and returns how many.
        store: where our samples come from.
        folder: where the peer's patches come from.
        rounds: how often each is timed.

    Returns:
        Milliseconds of one patch of the peer (fastest round), of one sample of ours, and the median ratio of both.
    """
    random.seed(0)
    for path in (store, *folder.iterdir()):
        warm_file(path)
    with one_thread(), Store(store) as opened:
        reader = Reader(opened)
        count = patches()
        timed = interleaved(rounds, patches, reader.read_all)
    ratio = median_ratio(timed, 0, 1) * SAMPLES / count
    return 1e3 * fastest(timed, 0) / count, 1e3 * fastest(timed, 1) / SAMPLES, ratio


def write_nnunet(store: Path, folder: Path) -> None:
    """Write a store's volumes as nnU-Net's own preprocessor leaves them: normalised float32, int16 label."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder.mkdir(parents=True)
    with Store(store) as opened:
        for name in opened.names:
            codes, label = voxels(opened.case(name))
            image = (opened.case(name).coding.decode(codes).clip(*WINDOW)[None] - 40) / 100
            seg = label[None].astype(np.int16)
            locations = DefaultPreprocessor._sample_foreground_locations(seg, [1, 2])
            properties = {"spacing": [1.0] * 3, "class_locations": locations}
            blocks, chunks = comp_blosc2_params(image.shape, (EDGE,) * 3, image.itemsize)
            blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, (EDGE,) * 3, seg.itemsize)
            nnUNetDatasetBlosc2.save_case(
                image,
                seg,
                properties,
                str(folder / name),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=chunks_seg,
                blocks_seg=blocks_seg,
            )


def nifti_folder(store: Path, ending: str) -> Path:
    """A store's volumes as NIfTI, int16 HU and uint8 label."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        with Store(store) as opened:
            for name in opened.names:
                case = opened.case(name)
                codes, label = voxels(case)
                volume = np.rint(case.coding.decode(codes)).astype(np.int16)
                nib.save(nib.Nifti1Image(volume.T, np.eye(4)), folder / f"{name}_image.{ending}")
                nib.save(nib.Nifti1Image(label.T, np.eye(4)), folder / f"{name}_label.{ending}")

    return material.kept(f"scans_{ending.rpartition('.')[2]}", [Path(__file__), store.name], write)


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Image and label of each case."""
    return [
        (image, image.with_name(image.name.replace("_image", "_label"))) for image in sorted(folder.glob("*_image*"))
    ]


def voxels(case: StoredCase) -> tuple[np.ndarray, np.ndarray]:
    """All of level 0 (int16 codes) and of the label (uint8)."""
    return case.read(0, (0, 0, 0), case.shape_zyx), case.read_label((0, 0, 0), case.shape_zyx)
