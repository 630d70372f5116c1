"""``linear_reference``: the linear probe of the linear-gradient-matching paper, trained on augmented images.

A linear layer on the embeddings of a context's images, which are flipped and cropped anew whenever they are seen: Adam,
1,000 epochs, batches of 100, a cosine schedule to 0, no weight decay (https://arxiv.org/abs/2511.16674, appendix A.1).
Learning rate, the head's start and augmentation without noise follow the public code, and so does what is kept: the
last epoch. It needs images, and takes a forward pass of the backbone for each image and epoch. One probe is one seed;
the paper has five.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.randomness import keyed_generator
from synthicl.data.augmentation import Augmentation
from synthicl.data.transforms import crop_centre
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe, ProbeSetting

EPOCHS = 1000
BATCH_SIZE = 100
# W ~ N(0, 0.01^2), b = 0: `get_fc` of the public code (appendix A.1 has nn.Linear's default). At this learning rate,
# 4e-5 for ten images, the start decides: U(-1 / sqrt(D), 1 / sqrt(D)) is never unlearnt.
START_STD = 0.01
LR_PER_IMAGE = 0.001 / 256  # times the images in a batch: the public code; the paper has 0.001 / 256 for any batch


class LinearReferenceProbe(Probe):
    """The paper's linear probe behind the `Probe` interface.

    All draws are functions of ``seed``; it leaves global random state alone.

    Args:
        backbone: embeds the images on its own device.
        crop_size: resolution in pixels that the backbone sees; None for the backbone's own.
        augmentation: its flips and crops are used, its noise is not; None for clean images, cropped in the centre.
        seed: of initialisation, order and augmentation.
        epochs: how often each image is seen.
        batch_size: most images in a batch; smaller contexts are one batch.
    """

    name = "linear_reference"
    needs_images = True

    def __init__(
        self,
        backbone: FrozenBackbone,
        crop_size: int | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        epochs: int = EPOCHS,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.backbone = backbone
        self.crop_size = crop_size or backbone.image_size
        self.augmentation = replace(augmentation, noise_probability=0.0) if augmentation else None
        self.seed = seed
        self.epochs = epochs
        self.batch_size = batch_size

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        """Train on the images; their embeddings play no part.

        Raises:
            ValueError: there are no images.
        """
        if images is None:
            raise ValueError("linear_reference is fitted on images, and this context has none.")
        with torch.inference_mode(False), torch.enable_grad():
            # What the caller made in inference mode cannot be part of a graph; a copy can.
            self._weight, self._bias = (part.detach().cpu() for part in self._train(images.clone(), context.y.clone()))

    def _train(self, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) after training on images (n, 3, S, S), uint8, with labels y (n,)."""
        device = self.backbone.mean.device
        classes, labels = y.unique(return_inverse=True)
        generator = keyed_generator(self.seed, self.name)
        weight = START_STD * torch.randn(len(classes), self.backbone.embed_dim, generator=generator)
        weight, bias = (part.to(device).requires_grad_() for part in (weight, torch.zeros(len(classes))))
        batch_size = min(self.batch_size, len(images))
        optimizer = torch.optim.Adam([weight, bias], LR_PER_IMAGE * batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        step = 0
        for _ in range(self.epochs):
            for rows in torch.randperm(len(images), generator=generator).split(batch_size):
                z = self._embed(images[rows].to(device), step)
                loss = F.cross_entropy(F.linear(z, weight, bias), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
            schedule.step()
        return weight, bias

    @torch.no_grad()
    def _embed(self, images: Tensor, step: int) -> Tensor:
        """Embeddings (N, D), float32, of one batch, augmented as a function of seed and step."""
        pixels = images.to(self.backbone.mean.dtype) / 255
        if self.augmentation is None:
            views = crop_centre(pixels, self.crop_size)
        else:
            parameters = self.augmentation.draw(len(pixels), pixels.shape[-1], self.seed, self.name, step)
            views = self.augmentation.apply(pixels, parameters, self.crop_size)
        z: Tensor = self.backbone(views)
        return z.float()

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        return F.linear(z, self._weight, self._bias).softmax(1).numpy()


def make(setting: ProbeSetting) -> LinearReferenceProbe:
    """Make the probe.

    Raises:
        ValueError: the setting has no backbone.
    """
    if setting.backbone is None:
        raise ValueError("linear_reference needs a backbone.")
    return LinearReferenceProbe(setting.backbone, setting.crop_size, setting.augmentation, setting.seed)


OPTIONAL = {"linear_reference": make}
