"""``boundary``: what TabICL decides on a plane, and which context rows it looks at, with one context and another.

The plane lies in the space of embeddings: through the mean of the training embeddings, along their first two principal
components. A point of it is lifted to D dimensions, where its other components are those of the mean, and classified
like any embedding. That is a slice, not a projection: test embeddings lie off it, and what is predicted at an
embedding's projection need not be what is predicted at the embedding. How often it is, is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthicl.core.errors import check_between
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.attention import ContextAttention
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.contexts import real_contexts, synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Extra, Job
from synthicl.studies.subject import Subject
from synthicl.tabicl.preprocessing import fit_preprocessing

ATTENTION_OF = ("random", "synthetic")  # contexts of one size, whose attention is shown
QUERY_CHUNK = 256  # queries whose attention is held at once
MAX_POINTS = 2000  # on each side
MARGIN = 0.1  # on each side of the map, as a share of the range of the test projections


def boundary(
    subject: Subject,
    results: Results,
    contexts: Sequence[str] = ("random", "centroid", "class_mean", "all"),
    resolution: int = 80,
) -> None:
    """Map TabICL's decisions on a plane through the training embeddings, and its attention to the context rows.

    Args:
        subject: what is evaluated.
        results: where rows, maps and attention go.
        contexts: which real contexts (names as in synthicl/coresets; of random ones the first draw); the synthetic one
            always takes part.
        resolution: points of the map on each side.

    Raises:
        UserError: a map of fewer than two points on each side, or of millions.
    """
    check_between(2, MAX_POINTS, "--", resolution=resolution)
    test = subject.embedded("test")
    plane = fit_plane(subject.embedded("train").z)
    at_test = plane.project(test.z)
    axes = map_axes(at_test, resolution)
    drop_maps_of_other_axes(results, axes)
    results.arrays |= {
        "boundary/x": axes[0],
        "boundary/y": axes[1],
        "boundary/test": at_test.numpy(),
        "boundary/variance": plane.variance,
        "boundary/class_names": np.frombuffer("\0".join(subject.data.class_names).encode(), dtype=np.uint8),
    }
    chosen = real_contexts(subject, subject.ipc, 1, contexts)
    chosen += list(synthetic_contexts(subject))[:1]
    probe = TabICLProbe(subject.deployment, subject.device)

    def measure(job: Job, split: str, predictions: np.ndarray, probabilities: np.ndarray) -> Extra:
        rows = job.context.rows
        classes = np.unique(rows.y.numpy())
        at_projection = classes[probe.predict_proba(plane.lift(at_test)).argmax(1)]
        predicted, confidence = decision_map(probe, plane, axes, classes)
        arrays = {
            "class": predicted,
            "confidence": confidence,
            "rows": plane.project(rows.z).numpy(),
            "labels": rows.y.numpy(),
        }
        if job.context.name in ATTENTION_OF:
            arrays |= attention_by_class(probe, rows, test, len(subject.data.class_names))
        return Extra({"same_at_projection": float((at_projection == predictions).mean())}, arrays)

    jobs = [Job(context, probe) for context in chosen]
    subject.scorer("boundary", results).score(jobs, {"test": test}, "Mapping decisions", measure)


def drop_maps_of_other_axes(results: Results, axes: tuple[np.ndarray, np.ndarray]) -> None:
    """Drop the rows of earlier calls unless their maps lie on these axes: all maps of a report have the same."""
    known = [results.arrays.get(name, np.empty(0)) for name in ("boundary/x", "boundary/y")]
    same = all(map(np.array_equal, known, axes))
    rows = results.of("boundary").rows.values()
    results.drop([row for row in rows if not same or f"boundary/class/{row.key}" not in results.arrays])


class Plane(NamedTuple):
    """A plane in the space of embeddings.

    Attributes:
        mean: (D,), its origin.
        directions: (D, 2), orthonormal.
        variance: (2,), share of the training embeddings' variance along each direction.
    """

    mean: Tensor
    directions: Tensor
    variance: np.ndarray

    def project(self, z: Tensor) -> Tensor:
        """Embeddings (N, D) to coordinates (N, 2)."""
        return (z - self.mean) @ self.directions

    def lift(self, points: Tensor) -> Tensor:
        """Coordinates (N, 2) to embeddings (N, D) on the plane."""
        return self.mean + points @ self.directions.T


def fit_plane(z_train: Tensor) -> Plane:
    """The plane of the first two principal components of training embeddings (N, D)."""
    preprocessing = fit_preprocessing("pca2", z_train)
    assert preprocessing.mean is not None
    assert preprocessing.projection is not None
    variance = preprocessing(z_train).var(0) / z_train.var(0).sum()
    return Plane(preprocessing.mean, preprocessing.projection, variance.numpy())


def map_axes(points: Tensor, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (resolution,) along both axes: from the 1st to the 99th percentile of points (N, 2), and `MARGIN`."""
    low, high = np.percentile(points.numpy(), [1, 99], axis=0)
    margin = MARGIN * (high - low)
    x, y = np.linspace(low - margin, high + margin, resolution, dtype=np.float32).T
    return x, y


def decision_map(
    probe: TabICLProbe, plane: Plane, axes: tuple[np.ndarray, np.ndarray], classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted class and its probability at each point.

    Args:
        probe: fitted on a context.
        plane: that the map lies on.
        axes: coordinates x (m,) and y (k,).
        classes: sorted class indices of the context.

    Returns:
        Class indices (k, m), and probabilities (k, m).
    """
    x, y = np.meshgrid(*axes)
    points = torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1))
    probabilities = probe.predict_proba(plane.lift(points))
    predicted = classes[probabilities.argmax(1)].astype(np.int32).reshape(x.shape)
    return predicted, probabilities.max(1).astype(np.float32).reshape(x.shape)


def attention_by_class(
    probe: TabICLProbe, context: LabelledEmbeddings, queries: LabelledEmbeddings, num_classes: int
) -> dict[str, np.ndarray]:
    """How much queries of each class attend to each context row, in the ensemble that is deployed.

    Args:
        probe: fitted on the context.
        context: n rows.
        queries: of any of the classes.
        num_classes: C.

    Returns:
        ``attention`` (L, C, n), for L blocks of the in-context stage: mean over members, heads and the queries of a
        class; rows sum to 1. Nothing where `ContextAttention` knows none.
    """
    attention = ContextAttention.of(probe, context)
    if attention is None:
        return {}
    of_class = torch.nn.functional.one_hot(queries.y, num_classes).double()
    of_class = (of_class / of_class.sum(0)).split(QUERY_CHUNK)
    total = torch.zeros(())
    for part, weight in zip(queries.z.split(QUERY_CHUNK), of_class, strict=True):
        total = total + weight.T @ attention(part)
    return {"attention": total.float().numpy()}
