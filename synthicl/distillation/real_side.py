"""The real side of the objective: what the synthetic embeddings are compared with in each step.

``bank``: embeddings of all real images, computed once. ``online``: other real images through the backbone in every
step, augmented as the synthetic ones are, the reference's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from synthicl.core.devices import to_device
from synthicl.core.distributed import gather_rows, owned, world
from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.core.randomness import keyed_generator
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import RandomSquares, SquareImages
from synthicl.distillation.grad_cache import chunks
from synthicl.distillation.views import MAX_VIEWS, Viewer, ViewSettings
from synthicl.embeddings.bank import embed_clean, embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import View, Views


@dataclass(frozen=True)
class RealSettings:
    """What the synthetic images are compared with.

    Attributes:
        source: ``bank`` compares with embeddings computed once, ``online`` embeds other real images in each step, as
            many as there are synthetic views. What is clean beside augmented views comes from the bank all the same.
        bank_views: augmented views of each real image in the bank; 0 for one clean view.
        bank_batch_size: real images of the bank used in a step; None for all.
    """

    source: Literal["bank", "online"] = "bank"
    bank_views: int = 0
    bank_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is out of range.
        """
        check_between(0, MAX_VIEWS, "--model.real.", bank_views=self.bank_views)
        check_at_least(1, "--model.real.", bank_batch_size=self.bank_batch_size)

    def check_with(self, views: ViewSettings) -> None:
        """Check that there is something for views in the bank to vary.

        Raises:
            UserError: there is not.
        """
        if self.bank_views and (views.augmentation is None or not views.number):
            raise UserError(
                f"--model.real.bank_views={self.bank_views} needs --model.views.augmentation and --model.views.number: "
                "nothing is to vary."
            )


class RealSide:
    """Real embeddings of each step, by what the backbone was shown; a collective call makes it.

    Args:
        settings: where they come from.
        viewer: shows real images as it shows the synthetic ones.
        data: the dataset.
        num_images: number n of synthetic images: an online batch has as many rows as they have.
        seed: seed of orders and draws.
        device: where a step's embeddings go.

    Attributes:
        train: clean embeddings of the training split, on the CPU.
        banks: what is drawn from banks.
        online: the batches of images to be embedded in each step, or None.
    """

    def __init__(
        self,
        settings: RealSettings,
        viewer: Viewer,
        data: ImageDataModule,
        num_images: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.viewer = viewer
        self.device = device
        images, crop_size = data.splits["train"], viewer.crop_size
        common: dict[str, Any] = {"num_workers": data.num_workers, "what": "training images"}
        self.train = embed_clean(viewer.backbone, images, crop_size, **common)
        clean, y = self.train.z[None], self.train.y
        self.online: OnlineBatches | None = None
        if settings.source == "online":
            size = viewer.image_size if viewer.views else crop_size
            batch_size = num_images * max(viewer.views, 1)
            self.online = OnlineBatches(images, batch_size, size, seed, not viewer.views, *world())
        self.banks: dict[View, Bank] = {}
        if viewer.clean and (self.online is None or viewer.views):
            self.banks["clean"] = Bank(clean, y, settings.bank_batch_size, seed, device)
        if viewer.views and self.online is None:
            z = clean
            if settings.bank_views:
                varied: dict[str, Any] = {
                    "augmentation": viewer.augmentation,
                    "image_size": viewer.image_size,
                    "seed": seed,
                }
                z = embed_views(viewer.backbone, images, crop_size, views=settings.bank_views, **varied, **common)
            self.banks["augmented"] = Bank(z, y, settings.bank_batch_size, seed, device)

    def step_of(self, batch: Any) -> int:
        """The number of the step that a batch is of: the batch is that number, or begins with it."""
        return int(batch if self.online is None else batch[0])

    @torch.no_grad()
    def __call__(self, batch: Any) -> Views:
        """The real embeddings of a step: from banks, or of the batch's images, each rank embedding its share."""
        drawn = {view: bank(self.step_of(batch)) for view, bank in self.banks.items()}
        if self.online is not None:
            drawn["augmented" if self.viewer.views else "clean"] = self._embed(*batch)
        clean = drawn.get("clean")
        return Views(clean, drawn.get("augmented", clean))

    def _embed(self, step: int, pixels: Tensor, y: Tensor) -> LabelledEmbeddings:
        """Embed a batch: this rank's images (B_rank, 3, S, S), uint8, and the labels of all (B,)."""
        viewer = self.viewer
        parameters = viewer.draw(len(y), "online", step, owned(len(y), *world()))
        parts = [torch.empty(0, viewer.backbone.embed_dim, device=self.device)]
        for part in chunks(len(pixels), viewer.at_once):
            images = to_device(pixels[part], self.device).to(viewer.backbone.mean.dtype) / 255
            parts.append(viewer.embed(images, None if parameters is None else parameters[part]))
        return LabelledEmbeddings(gather_rows(torch.cat(parts), len(y)), to_device(y, self.device))


@dataclass(frozen=True)
class OnlineBatches:
    """Real batches as a function of the step: shuffled, without replacement, the last partial batch dropped.

    Attributes:
        images: the training split, N images.
        labels: (N,).
        batch_size: images in a batch; all of them if there are fewer.
        image_size: resolution in pixels: images are resized to it on the short side and randomly cropped.
        seed: seed of the order and of the crops.
        clean: whether the squares are the images' centres, as in an embedding bank.
        rank: which share of a batch's images is read.
        ranks: number of shares.
    """

    images: LabelledImages
    batch_size: int
    image_size: int
    seed: int
    clean: bool = False
    rank: int = 0
    ranks: int = 1

    def indices(self, step: int) -> Tensor:
        """Which images step ``step`` (counted from 0) sees, (B,)."""
        size = min(self.batch_size, len(self.images))
        per_epoch = len(self.images) // size
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(self.images), generator=keyed_generator(self.seed, "online order", epoch))
        return order[position * size : (position + 1) * size]

    def __call__(self, step: int) -> tuple[int, Tensor, Tensor]:
        """The batch of a step: the step, this rank's images (B_rank, 3, S, S), uint8, and the labels of all, (B,)."""
        indices = self.indices(step)
        share = owned(len(indices), self.rank, self.ranks)
        crops = RandomSquares(self.images, self.image_size, [(self.seed, "online crop", step)])
        squares = SquareImages(self.images, self.image_size) if self.clean else crops
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        pixels = [squares[int(index)].view(-1, *empty.shape[1:]) for index in indices[share.start : share.stop]]
        return step, torch.cat([empty, *pixels]), torch.from_numpy(self.images.labels)[indices]


class Bank:
    """An embedding bank. It lies on the device if every step uses all of it, and else in the host's memory.

    Args:
        z: (V, N, D), V views of each of N images, on the CPU.
        y: (N,), on the CPU.
        batch_size: images drawn in each step, as many of each class as there are; None for all of them.
        seed: seed of the draws.
        device: where a step's embeddings go.
    """

    def __init__(
        self, z: Tensor, y: Tensor, batch_size: int | None, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.batch_size = batch_size if batch_size is None or batch_size < len(y) else None
        self.seed = seed
        self.device = torch.device(device)
        if self.batch_size is None:
            self._all = LabelledEmbeddings(z.flatten(0, 1).to(device), y.repeat(len(z)).to(device))
            return
        self._z, self._y = z, y
        shuffled = torch.randperm(len(y), generator=keyed_generator(seed, "bank order"))
        self._by_class = shuffled[y[shuffled].argsort(stable=True)]
        self._counts = torch.bincount(y)
        self._starts = self._counts.cumsum(0) - self._counts
        self._per_class = -(-self.batch_size // int((self._counts > 0).sum()))

    def __call__(self, step: int) -> LabelledEmbeddings:
        """The embeddings of a step: all rows, or a class-balanced minibatch with all views."""
        if self.batch_size is None:
            return self._all
        chosen = self._draw(step)
        z, y = self._z[:, chosen].flatten(0, 1), self._y[chosen].repeat(len(self._z))
        return LabelledEmbeddings(to_device(z, self.device), to_device(y, self.device))

    def _draw(self, step: int) -> Tensor:
        """Indices of a minibatch: no image twice, all images of a class equally often.

        Each class is cut into as many parts as images are drawn of it; one is drawn of each part, and the class is
        turned by a random number of places. The time does not depend on N, as a shuffle's would.
        """
        generator = keyed_generator(self.seed, "bank batch", step)
        counts, parts = self._counts[:, None], self._counts.clamp_max(self._per_class)[:, None]
        part = torch.arange(self._per_class)
        first, end = (part * counts // parts.clamp_min(1), (part + 1) * counts // parts.clamp_min(1))
        within, turn = torch.rand((2, *first.shape), dtype=torch.float64, generator=generator)
        place = (first + (within * (end - first)).long() + (turn[:, :1] * counts).long()) % counts.clamp_min(1)
        return self._by_class[(self._starts[:, None] + place)[part < parts]]
