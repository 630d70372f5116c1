"""One file per family of datasets; each says where its images lie and how they split.

A family defines ``REGISTERED``, a dict from name to `DatasetSpec`; other packages register theirs as entry points of
the group ``synthicl.datasets``. Nothing here imports torch at module level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
class DatasetSpec:
    """What a family states about one of its datasets.

    Attributes:
        assets: the files it needs, given ``--data.root``.
        load: finds and splits the images, given ``--data.root`` and ``--data.split_seed``, the seed of the splits that
            the dataset does not fix itself.
        licence: of the images.
    """

    assets: Callable[[Path], list[Asset]]
    load: Callable[[Path, int], ImageDataset]
    licence: str


DATASETS: Registry[DatasetSpec] = Registry(
    __name__, "synthicl.datasets", "--data.name", "a DatasetSpec", instance_of(DatasetSpec)
)


def dataset_spec(name: str) -> DatasetSpec:
    """The dataset called ``name``.

    Raises:
        UserError: there is none; the message lists the names.
    """
    return DATASETS.get(name)
