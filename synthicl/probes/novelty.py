r"""How unlike the training images an image is: the part of its embedding outside of their principal directions.

With u = z / |z|, the mean m of the training u, and the m principal directions V (D, m) of u - m,

    novelty(z) = |(I - V V^T) (u - m)|,

the residual of H. Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022,
https://arxiv.org/abs/2203.10807, on embeddings of unit length as in Y. Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022, https://arxiv.org/abs/2204.06507: noise has short embeddings, which are near to
everything otherwise. It looks at no labels, and is a number between 0 and 2.

``benchmarks/novelty.py`` compares it with others, docs/trust.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DIRECTIONS = 64


@dataclass(frozen=True)
class Novelty:
    """The score, with what it keeps of the training images.

    Attributes:
        mean: (D,), of training embeddings of unit length.
        directions: (D, m), orthonormal columns.
    """

    mean: Tensor
    directions: Tensor

    @property
    def numbers(self) -> int:
        """How many numbers about the training images it keeps."""
        return self.mean.numel() + self.directions.numel()

    def __call__(self, z: Tensor) -> np.ndarray:
        """Scores (q,), float32, of embeddings z (q, D); larger is more unlike."""
        centred = torch.nn.functional.normalize(z.double().cpu(), dim=1) - self.mean.double()
        inside = centred @ self.directions.double()
        residual = (centred.square().sum(1) - inside.square().sum(1)).clamp(min=0).sqrt()
        return residual.float().numpy()


def fit_novelty(z_train: Tensor) -> Novelty:
    """Fit the score on clean training embeddings (N, D), N being 2 at least.

    It keeps `DIRECTIONS` directions, and at most half of those in which the embeddings vary: what is left over has to
    be more than chance.
    """
    u = torch.nn.functional.normalize(z_train.double().cpu(), dim=1)
    mean = u.mean(0)
    centred = u - mean
    kept = min(DIRECTIONS, max(min(len(u) - 1, u.shape[1]) // 2, 1))
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -kept:]  # their eigenvalues ascend
    return Novelty(mean.float(), directions.float().contiguous())
