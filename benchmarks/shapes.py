"""Distillations of a given shape, for measuring what a step costs: random weights, random images, no validation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from unittest.mock import patch

import lightning as L
import numpy as np
import torch
from safetensors.torch import save_file

from synthicl.backbones import backbone_spec, create_backbone
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.images import LabelledImages
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.distiller import Distiller
from synthicl.distillation.images import ImageSettings
from synthicl.distillation.real_side import Bank, RealSettings
from synthicl.distillation.views import ViewSettings
from synthicl.objectives import LinearGradientMatching, Objective


def random_backbone(name: str, path: Path | None = None) -> FrozenBackbone:
    """A backbone of this shape; the numbers in it do not matter to time and memory. ``path`` keeps them, if given."""
    spec = backbone_spec(name)
    generator = torch.Generator().manual_seed(0)
    state = {
        key: 0.02 * torch.randn(value.shape, generator=generator) + float(value.ndim == 1 and key.endswith("weight"))
        for key, value in spec.build().state_dict().items()
    }
    with TemporaryDirectory() as folder:
        path = path or Path(folder) / "weights.safetensors"
        save_file(state, path)
        return create_backbone(name, path)


class Images(ImageDataModule):
    """Images of noise in each split, the same number of each class; online steps see as many as synthetic views."""

    def __init__(self, num_classes: int, per_class: int, size: int) -> None:
        L.LightningDataModule.__init__(self)
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        self.name, self.num_classes, self.num_workers, self.split_seed = "noise", num_classes, 0, 0
        self.class_names = [str(label) for label in range(num_classes)]
        images = LabelledImages([pixels] * num_classes * per_class, np.arange(num_classes).repeat(per_class))
        self.splits = {"train": images, "val": images, "test": images}
        self.batch_of_step = int


def distiller(
    backbone: FrozenBackbone,
    objective: Objective | None = None,
    views: int = 3,
    chunk_size: int | None = None,
    real: Literal["bank", "online"] = "bank",
) -> Distiller:
    """Settings of configs/data/imagenette.yaml, unless said otherwise; growth is left to `FullSize`."""
    size = backbone.image_size
    return Distiller(
        backbone,
        objective or LinearGradientMatching(),
        images=ImageSettings(256 if size == 224 else size, grow_every=10**9),
        views=ViewSettings(views, Augmentation(), chunk_size=chunk_size),
        real=RealSettings(real),
    )


class FullSize(L.Callback):
    """Give a run all levels of its pyramid from the start, and an embedding bank as large as a dataset's.

    Args:
        bank: number of real images; None keeps the bank of the images that there are.
        views: of each real image.
        batch_size: of the bank's minibatches.
    """

    def __init__(self, bank: int | None = None, views: int = 1, batch_size: int | None = 2048) -> None:
        self.bank = bank
        self.views = views
        self.batch_size = batch_size

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do both."""
        assert isinstance(pl_module, Distiller)
        images = pl_module.images
        while not images.pyramid.is_complete:
            images.pyramid.grow()
        trainer.optimizers[0].param_groups[0]["params"] = list(images.parameters())
        if self.bank is not None:
            z = torch.randn(self.views, self.bank, pl_module.backbone.embed_dim)
            y = torch.arange(self.bank) % images.num_classes
            bank = Bank(z, y, self.batch_size, 0, pl_module.device)
            pl_module.real.banks = dict.fromkeys(pl_module.real.banks, bank)


def fit(
    module: Distiller, num_classes: int, steps: int, callbacks: Sequence[L.Callback], precision: str = "32-true"
) -> None:
    """Run some steps through the Trainer, with these callbacks and the one that deploys TabICL."""
    trainer = L.Trainer(
        max_steps=steps,
        precision=precision,  # type: ignore[arg-type]  # a Literal of many words
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TabICLEvaluation(preprocessing="raw"), *callbacks],
        devices=1,
    )
    per_class = max(module.viewer.views, 1) if module.real_settings.source == "online" else 1
    trainer.fit(module, datamodule=Images(num_classes, per_class, module.image_settings.size))


@contextmanager
def private_cache() -> Iterator[None]:
    """Keep embeddings of noise out of the user's cache."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, SYNTHICL_CACHE=folder):
        yield
