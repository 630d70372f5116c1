"""The frozen backbone: normalisation and network as one module that never trains."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from synthicl.backbones import backbone_spec
from synthicl.core.assets import obtain
from synthicl.core.errors import UserError
from synthicl.core.files import file_fingerprint


class FrozenBackbone(nn.Module):
    """A feature extractor with fixed weights, always in evaluation mode.

    Args:
        name: for example ``mini`` or ``dinov2_vitb14``.
        weights: a local weights file; None for the bundled or downloaded one.
        compile: whether ``torch.compile`` compiles it, which takes some seconds for each size of a batch.

    Attributes:
        image_size: the resolution in pixels that it expects by default.
        embed_dim: D, the length of an embedding.
        weights: where the weights file lies.
        fingerprint: SHA-256 of the weights file, 16 hex digits: what cached embeddings are filed under.

    Raises:
        UserError: unknown name, missing or unfitting weights, or weights that are no numbers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str | Path | None = None, compile: bool = False) -> None:
        super().__init__()
        spec = backbone_spec(name)
        path = obtain(spec.weights_asset(weights))
        self.name = name
        self.licence = spec.licence
        self.image_size = spec.image_size
        if not path.is_file():
            raise UserError(f"--backbone.weights={path}: not a file. Name the weights file itself.")
        self.weights = path
        self.fingerprint = file_fingerprint(path)
        self.network = spec.build()
        spec.load(self.network, path)
        for tensor_name, tensor in self.network.state_dict().items():
            if not tensor.isfinite().all():
                raise UserError(
                    f"--backbone.weights={path}: {tensor_name} holds NaN or infinite numbers. Choose another file, or "
                    "get this one again."
                )
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()
        self.embed_dim = int(self.network.num_features)  # type: ignore[arg-type]  # timm states it
        if compile:
            self.compile()

    def require(self, fingerprint: str | None) -> Self:
        """Check that the weights are those that a context set was made with.

        Args:
            fingerprint: of the weights it was made with; None where it does not say.

        Raises:
            UserError: they are others.
        """
        if fingerprint not in (None, self.fingerprint):
            raise UserError(
                f"--backbone.weights: these weights of {self.name} ({self.fingerprint}) are not those the context set "
                f"was made with ({fingerprint}). Supply that file with --backbone.weights=PATH."
            )
        return self

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever is asked: a LightningModule calls ``train()`` on all it holds."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (N, 3, H, W) in [0, 1], not normalised; augmented images may leave the range.

        Returns:
            Embeddings (N, D).
        """
        embeddings: Tensor = self.network((images - self.mean) / self.std)
        return embeddings
