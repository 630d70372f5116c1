"""One file per family of datasets; each says where its images lie and how they split.

A family defines ``REGISTERED``, a dict from name to `DatasetSpec`; other packages register theirs as entry points of
the group ``synthicl.datasets``. Nothing here imports torch at module level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from synthicl.core.assets import Asset
from synthicl.core.registry import Registry, instance_of
from synthicl.data.images import LabelledImages


@dataclass(frozen=True)
class ImageDataset:
    """A dataset found on disk, not read yet.

    Attributes:
        splits: ``train``, ``val`` and ``test``.
        class_names: name of each class index.
    """

    splits: dict[str, LabelledImages]
    class_names: list[str]


@dataclass(frozen=True)
class Pad:
    """A sketch pad whose drawings are like the images of a dataset.

    Attributes:
        ground: colour of the paper, ``black`` or ``white``; that of the ink is the other.
        brush: width of a stroke as a share of the side.
        pixels: side of the grid to which a drawing is averaged, where the images were made so; None leaves it.
    """

    ground: Literal["black", "white"] = "white"
    brush: float = 1 / 24
    pixels: int | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """What a family states about one of its datasets.

    Attributes:
        assets: the files it needs, given ``--data.root``.
        load: finds and splits the images, given ``--data.root`` and ``--data.split_seed``, the seed of the splits that
            the dataset does not fix itself.
        licence: of the images.
        pad: what makes drawings like its images.
    """

    assets: Callable[[Path], list[Asset]]
    load: Callable[[Path, int], ImageDataset]
    licence: str
    pad: Pad = field(default_factory=Pad)


DATASETS: Registry[DatasetSpec] = Registry(
    __name__, "synthicl.datasets", "--data.name", "a DatasetSpec", instance_of(DatasetSpec)
)


def dataset_spec(name: str) -> DatasetSpec:
    """The dataset called ``name``.

    Raises:
        UserError: there is none; the message lists the names.
    """
    return DATASETS.get(name)
