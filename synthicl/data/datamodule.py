"""The LightningDataModule: splits of a dataset, and the loaders that the Trainer asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Sampler

from synthicl.core.errors import UserError
from synthicl.core.settings import DataSettings
from synthicl.core.text import as_shown, first_collision
from synthicl.data.datasets import dataset_spec
from synthicl.data.duplicates import warn_of_identical
from synthicl.data.images import SPLITS
from synthicl.data.union import with_more


class ImageDataModule(L.LightningDataModule):
    """A labelled image dataset.

    Args:
        name: for example ``digits``, ``imagenette``, or ``folder`` for one's own images.
        root: where the images lie, or are downloaded to.
        num_workers: processes that read images; 0 reads in the main process.
        split_seed: seed of the splits that the dataset does not fix itself; one for all runs that are compared.
        more: folders of further images, each as the root of ``folder``. Classes that the dataset lacks come after its
            own, images of its own classes join them.

    Attributes:
        splits: ``train``, ``val`` and ``test``.
        class_names: name of each class index.
        num_classes: C.

    Raises:
        UserError: unknown name, a seed out of range, missing files, or a class that is missing from a split.
    """

    def __init__(
        self,
        name: str,
        root: Path = Path("data"),
        num_workers: int = 0,
        split_seed: int = 0,
        more: tuple[Path, ...] = (),
    ) -> None:
        super().__init__()
        asked = DataSettings(name, Path(root), num_workers, split_seed, tuple(map(Path, more)))  # checks the ranges
        spec = dataset_spec(name)
        own = spec.load(asked.root, split_seed)
        dataset = with_more(own, asked.more, split_seed)
        self.name = name
        self.root = asked.root
        self.split_seed = split_seed
        licences = [spec.licence, *([dataset_spec("folder").licence] if asked.more else [])]
        self.licence = "; ".join(dict.fromkeys(licences))
        self.num_workers = num_workers
        self.splits = dataset.splits
        self.class_names = dataset.class_names
        self.num_classes = len(self.class_names)
        for split in SPLITS:
            absent = set(range(self.num_classes)) - set(np.unique(self.splits[split].labels).tolist())
            if absent:
                names = ", ".join(repr(self.class_names[label]) for label in sorted(absent)[:5])
                place = root if min(absent) < len(own.class_names) else asked.more[-1]
                raise UserError(
                    f"--data.root={place}: no {split} images of class {names}. Every class needs images in train, val "
                    f"and test: add images, or lay the splits out as {place}/train, {place}/val and {place}/test."
                )
        self._check_names(asked.more)
        warn_of_identical(self.splits)
        self.batch_of_step: Callable[[int], Any] = int

    def _check_names(self, more: Sequence[Path]) -> None:
        """Refuse class names that look the same; two that differ in case are two classes, and a note says so.

        Raises:
            UserError: two names look the same, being one in different Unicode forms.
        """
        if pair := first_collision(self.class_names):
            root = more[-1] if more else self.root
            raise UserError(f"--data.root={root}: two classes look the same, {pair[0]!a} and {pair[1]!a}. Rename one.")
        if pair := first_collision(self.class_names, lambda name: as_shown(name).casefold()):
            rank_zero_only(print)(
                f"Note: classes {pair[0]!r} and {pair[1]!r} differ in case only. Their images/ are one folder on file "
                "systems that do not tell case.",
                flush=True,
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the remaining steps: what ``batch_of_step`` gives for a step number, by default the number.

        The order of the data is a function of the step, so a run that was interrupted resumes where it was.
        """
        assert self.trainer is not None
        steps = _Steps(self.trainer.max_steps, self.trainer.global_step)
        workers = self.num_workers if self.batch_of_step is not int else 0
        return DataLoader(_Batches(self.batch_of_step), batch_size=None, sampler=steps, num_workers=workers)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch where it is: real images go to the device chunk by chunk."""
        return batch

    def val_dataloader(self) -> DataLoader[int]:
        """One empty batch: validation is the callbacks' work, on embeddings computed once."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    test_dataloader = val_dataloader


class _Batches(Dataset[Any]):
    def __init__(self, batch_of_step: Callable[[int], Any]) -> None:
        self.batch_of_step = batch_of_step

    def __getitem__(self, step: int) -> Any:
        return self.batch_of_step(step)


class _Steps(Sampler[int]):
    """Step numbers from ``first`` on. Its length is that of the whole run, so that progress bars show the whole run."""

    def __init__(self, steps: int, first: int) -> None:
        self.steps = steps
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.steps))

    def __len__(self) -> int:
        return self.steps
