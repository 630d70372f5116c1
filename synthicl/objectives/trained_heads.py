"""Gradient matching along the training of a linear probe.

Linear gradient matching draws heads near zero, where the probe gradient says little more than the class means (see
``gradient_matching.py``). Here heads lie on trajectories that linear probes take when they are trained on the real
embeddings: there the gradient is that of the real images that are hard for a probe of this age. The heads of B. Zhao,
K. Mopuri and H. Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, https://arxiv.org/abs/2006.05929, are
trained on the synthetic images; expert trajectories on real ones are those of G. Cazenavette et al., CVPR 2022,
https://arxiv.org/abs/2203.11932, which match parameters.
"""

from __future__ import annotations

import math
from itertools import islice

import torch
from torch import Tensor
from typing_extensions import override

from synthicl.core.devices import to_device
from synthicl.core.errors import UserError
from synthicl.core.randomness import keyed_generator
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.gradient_matching import LinearGradientMatching
from synthicl.objectives.linear_probe import class_balanced_weight, descend
from synthicl.objectives.objective import CPU, View
from synthicl.tabicl.deployment import Deployment


class TrainedHeadGradientMatching(LinearGradientMatching):
    """Mean over heads of 1 - cosine(real gradient, synthetic gradient), heads drawn from recorded trajectories.

    The trajectories are full-batch gradient descent with step 1 / L, L the bound of the loss's curvature, from several
    heads N(0, head_std^2); heads are recorded at steps that are evenly spaced in their logarithm.

    Args:
        heads: H, number of heads drawn in each step.
        starts: trajectories.
        snapshots: heads recorded on each at most, the first one at its start, the last one at its end.
        probe_steps: length of a trajectory, in steps of gradient descent.
        head_std: standard deviation of the heads' weights at the start.
        balanced: weigh the real rows so that every class counts the same.
        view: what of the images is matched.
    """

    def __init__(
        self,
        heads: int = 32,
        starts: int = 4,
        snapshots: int = 16,
        probe_steps: int = 1000,
        head_std: float = 0.01,
        balanced: bool = True,
        view: View = "augmented",
    ) -> None:
        if starts < 1 or snapshots < 2 or probe_steps < snapshots:
            raise UserError(
                f"--model.objective: {starts} starts, {snapshots} snapshots in {probe_steps} probe_steps. Start at "
                "least once, and record at least 2 heads and at most one each step."
            )
        super().__init__(heads=heads, head_std=head_std, balanced=balanced, view=view)
        self.starts = starts
        self.snapshots = snapshots
        self.probe_steps = probe_steps

    @override
    @torch.no_grad()
    def prepare(self, train: LabelledEmbeddings, deployment: Deployment, device: torch.device = CPU) -> None:
        z, y = train.z.to(device), train.y.to(device)
        num_classes = int(y.max()) + 1
        row_weight = class_balanced_weight(y, num_classes) if self.balanced else None
        generator = keyed_generator("trajectories")
        weight = torch.randn(self.starts, num_classes, z.shape[1], generator=generator).to(z) * self.head_std
        bias = weight.new_zeros(self.starts, num_classes)
        # The Hessian of the mean cross-entropy is at most half the largest eigenvalue of the rows' second moment.
        rows = torch.cat([z, z.new_ones(len(z), 1)], 1)
        moment = rows.T @ (rows / len(z) if row_weight is None else rows * row_weight[:, None])
        step_size = 2 / torch.linalg.eigvalsh(moment)[-1]
        evenly = torch.logspace(0, math.log10(self.probe_steps), self.snapshots - 1).round().tolist()
        recorded_at = {0, self.probe_steps, *evenly[1:], *evenly[: self.snapshots - 2]}
        heads = islice(descend(z, y, weight, bias, step_size, row_weight), self.probe_steps + 1)
        recorded = [head for step, head in enumerate(heads) if step in recorded_at]
        self._weights = torch.cat([weight for weight, _ in recorded])
        self._biases = torch.cat([bias for _, bias in recorded])

    @override
    def draw_heads(self, num_classes: int, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = to_device(torch.randint(len(self._weights), (self.heads,), generator=generator), z.device)
        return self._weights[chosen].to(z), self._biases[chosen].to(z)
