"""What the backbone is shown of images, synthetic and real, and the embeddings of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core import memory
from synthicl.core.devices import to_device
from synthicl.core.distributed import gather_rows
from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.data.augmentation import Augmentation, AugmentationParameters
from synthicl.data.transforms import crop_centre
from synthicl.distillation.images import MAX_PIXELS, SyntheticImages
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import View, Views

MAX_VIEWS = 10_000  # the reference has 10
EVALUATED_AT_ONCE = 64  # images embedded at once where nothing has been optimised


@dataclass(frozen=True)
class ViewSettings:
    """What the backbone is shown in a step, and how much at once.

    Attributes:
        number: augmented views of each synthetic image in a step, for objectives that look at them; 0 shows these the
            clean image, and clean real ones. The reference has 10.
        augmentation: strength of the augmentation on both sides; None for clean images.
        crop_size: resolution in pixels that the backbone sees; None for the backbone's own.
        chunk_size: most views embedded at once, what memory depends on; None for as many as fit into the memory that is
            free when a fit begins.
    """

    number: int = 10
    augmentation: Augmentation | None = None
    crop_size: int | None = None
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is out of range.
        """
        check_between(0, MAX_VIEWS, "--model.views.", number=self.number)
        check_between(1, MAX_PIXELS, "--model.views.", crop_size=self.crop_size)
        check_at_least(1, "--model.views.", chunk_size=self.chunk_size)


class Viewer:
    """Shows images to the backbone: their clean centres, augmented views, or both, as the objective asks.

    A step has R rows for each synthetic image: the clean one first, if the objective looks at it, then the views.

    Args:
        backbone: on the device where it is to run.
        settings: what is shown.
        looks_at: what the objective looks at.
        image_size: resolution S of the synthetic images, in pixels.
        seed: seed of the augmentation.

    Attributes:
        clean: rows of each image that show it clean: 1 or 0.
        views: augmented views of each image; 0 exactly where ``augmentation`` is None.
        at_once: most rows that are embedded at once.
        autocast: the context that the backbone runs in, for mixed precision.

    Raises:
        UserError: the backbone refuses the crop, or the images are smaller than it.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __init__(
        self, backbone: FrozenBackbone, settings: ViewSettings, looks_at: set[View], image_size: int, seed: int
    ) -> None:
        shown = looks_at if settings.augmentation is not None and settings.number else {"clean"}
        self.backbone = backbone
        self.augmentation = settings.augmentation if "augmented" in shown else None
        self.views = settings.number if self.augmentation else 0
        self.clean = int("clean" in shown)
        self.crop_size = settings.crop_size or backbone.image_size
        self.chunk_size = settings.chunk_size
        self.at_once = settings.chunk_size or EVALUATED_AT_ONCE
        self.image_size = image_size
        self.seed = seed
        if self.crop_size > image_size:
            raise UserError(
                f"--model.images.size={image_size} is smaller than the backbone's crop of {self.crop_size} px. "
                f"Raise it, or lower --model.views.crop_size."
            )
        try:
            with torch.compiler.set_stance("force_eager"):
                backbone(torch.zeros(1, 3, self.crop_size, self.crop_size))
        except (AssertionError, RuntimeError, ValueError) as error:  # RuntimeError: a convolution larger than the crop
            reason = " ".join(str(error).split())
            raise UserError(f"--model.views.crop_size={self.crop_size}: the backbone refuses it ({reason}).") from error

    @property
    def rows_of_image(self) -> int:
        """Rows R that an image has in a step."""
        return self.clean + self.views

    def embed(self, images: Tensor, parameters: AugmentationParameters | None = None) -> Tensor:
        """Embed what is shown of images (N, 3, S, S) in [0, 1]: augmented views, or their clean centres.

        Returns:
            (N, D); what comes out of 16-bit autocast becomes float32 for the objective.
        """
        return self._embed(self._centres(images) if parameters is None else self._augmented(images, parameters))

    def embedder(self, images: SyntheticImages, step: int) -> Callable[[slice], Tensor]:
        """A function that embeds some of this rank's rows in a step: row r is of its image r // R."""
        parameters = self.draw(images.total, "synthetic", step, images.mine, self.views)

        def embed(part: slice) -> Tensor:
            rows = torch.arange(part.start, part.stop)
            image, place = rows // self.rows_of_image, rows % self.rows_of_image
            first, last = int(image[0]), int(image[-1])
            decoded = images.pyramid.decode(slice(first, last + 1))
            is_clean = place < self.clean

            def of(chosen: Tensor) -> Tensor:
                return _take(decoded, image[chosen] - first)

            if parameters is None or is_clean.all():
                return self._embed(self._centres(of(is_clean)))
            view = (image * self.views + place - self.clean)[~is_clean]  # they follow each other
            pixels = self._augmented(of(~is_clean), parameters[int(view[0]) : int(view[-1]) + 1])
            if is_clean.any():
                both = torch.cat([self._centres(of(is_clean)), pixels])
                pixels = _take(both, torch.cat([rows[is_clean], rows[~is_clean]]).argsort())
            return self._embed(pixels)

        return embed

    def draw(self, count: int, what: str, step: int, mine: range, views: int = 1) -> AugmentationParameters | None:
        """How some of ``count`` images are augmented in a step, those in ``mine``; drawn for all, on every rank."""
        if self.augmentation is None:
            return None
        everyone = self.augmentation.draw(count * views, self.image_size, self.seed, what, step)
        return everyone[mine.start * views : mine.stop * views]

    def by_view(self, z: Tensor, y: Tensor, soft_labels: Tensor | None) -> Views:
        """Tell the rows of a step apart by what they show.

        Args:
            z: embeddings of all n optimised images, (n R, D).
            y: class of each image, (n,).
            soft_labels: (n, C), or None.
        """
        rows = z.unflatten(0, (len(y), self.rows_of_image))

        def labelled(z: Tensor) -> LabelledEmbeddings:
            views = z.shape[1]
            soft = None if soft_labels is None else soft_labels.repeat_interleave(views, 0)
            return LabelledEmbeddings(z.flatten(0, 1), y.repeat_interleave(views), views, soft)

        clean = labelled(rows[:, :1]) if self.clean else None
        return Views(clean, labelled(rows[:, self.clean :]) if self.views else clean)

    @torch.no_grad()
    def context(self, images: SyntheticImages) -> LabelledEmbeddings:
        """All images, frozen ones first, as context rows: clean embeddings of what a PNG holds; a collective call."""
        parts = [torch.empty(0, self.backbone.embed_dim, device=images.device)]
        with torch.autocast(images.device.type, enabled=False):
            for pixels in images.in_8_bit(self.at_once):
                centres = self._centres(pixels) / 255
                parts.append(self.backbone(centres.to(self.backbone.mean.dtype)).float())
        soft = images.gather_soft_labels()
        z = gather_rows(torch.cat(parts), images.total)
        rows = LabelledEmbeddings(z, images.labels, soft_labels=None if soft is None else soft.float())
        return rows if images.frozen is None else images.frozen.rows.followed_by(rows)

    def fit_into_memory(self, images: SyntheticImages, sharers: int) -> None:
        """Find how many rows can be embedded at once, where that is not a setting.

        Args:
            images: this rank's.
            sharers: processes that share the device's memory.
        """
        if self.chunk_size is None:
            rows, device = len(images.mine) * self.rows_of_image, images.device
            needed = self.bytes_of_row(images)
            self.at_once = memory.largest_chunk(rows, needed, device, images.complete_bytes, sharers)

    def bytes_of_row(self, images: SyntheticImages) -> int:
        """What a chunk keeps of one more view for its backward pass, at most: of another image."""
        last = self.rows_of_image - 1 if len(images.mine) > 1 else 0  # a view, after which another image's follows
        images.zero_gradients()
        embed = self.embedder(images, 0)
        with torch.autocast(images.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            one = memory.saved_bytes(lambda: embed(slice(last, last + 1)))
            alone = len(images.mine) * self.rows_of_image == 1
            two = 2 * one if alone else memory.saved_bytes(lambda: embed(slice(last, last + 2)))
        images.pyramid.zero_grad()
        return two - one

    def _centres(self, images: Tensor) -> Tensor:
        return crop_centre(images, self.crop_size)

    def _augmented(self, images: Tensor, parameters: AugmentationParameters) -> Tensor:
        assert self.augmentation is not None
        return self.augmentation.apply(images, parameters, self.crop_size)

    def _embed(self, pixels: Tensor) -> Tensor:
        with self.autocast():
            z: Tensor = self.backbone(pixels)
        return z if z.dtype == torch.float64 else z.float()


def _take(images: Tensor, indices: Tensor) -> Tensor:
    """Some of the images (N, 3, H, W), without a copy where they are all of them in their order."""
    if indices.equal(torch.arange(len(images))):
        return images
    return images.index_select(0, to_device(indices, images.device))
