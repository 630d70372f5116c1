"""Objectives: scalars that say how far the synthetic images are from doing the job of the real ones.

An objective is a function of the stacked embeddings of the synthetic batch and of real embeddings; it knows neither
images nor backbones. Plain PyTorch.

Files in ``configs/objective/`` give this project's objectives their short names; other packages register their classes
as entry points of the group ``synthicl.objectives``.
"""

from __future__ import annotations

from typing import TypeGuard

from synthicl.core.registry import Registry
from synthicl.objectives.gradient_matching import LinearGradientMatching
from synthicl.objectives.in_context import InContext
from synthicl.objectives.linear_probe import probe_gradient
from synthicl.objectives.objective import Objective, View, Views
from synthicl.objectives.ridge import Ridge
from synthicl.objectives.trained_heads import TrainedHeadGradientMatching
from synthicl.objectives.weighted_sum import WeightedSum

__all__ = [
    "OBJECTIVES",
    "InContext",
    "LinearGradientMatching",
    "Objective",
    "Ridge",
    "TrainedHeadGradientMatching",
    "View",
    "Views",
    "WeightedSum",
    "probe_gradient",
]


def _is_objective(item: object) -> TypeGuard[type[Objective]]:
    return isinstance(item, type) and issubclass(item, Objective)


OBJECTIVES: Registry[type[Objective]] = Registry(
    __name__, "synthicl.objectives", "--model.objective", "a class of Objective", _is_objective
)
