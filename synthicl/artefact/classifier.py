"""TabICL with a context set, as a scikit-learn classifier of embeddings, and of images where the set names a backbone.

>>> from synthicl import InContextClassifier
>>> classifier = InContextClassifier(preprocessing="rotated16").fit(embeddings, labels)  # doctest: +SKIP
>>> classifier = InContextClassifier.from_context_set("outputs/digits/latest")  # doctest: +SKIP
>>> classifier.predict_images(["photo.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from synthicl.artefact.context_set import ContextSet
from synthicl.core.errors import UserError
from synthicl.embeddings.embedder import ImageEmbedder, Images
from synthicl.probes.calibration import tempered
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import checkpoint_name, find_checkpoint
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, check_members, fit_preprocessing

P = ParamSpec("P")
R = TypeVar("R")
# What the flags of a command line are called here.
PARAMETERS = {
    "--tabicl.preprocessing": "preprocessing",
    "--tabicl.n_estimators": "n_estimators",
    "--tabicl.checkpoint": "checkpoint",
    "--tabicl.model_path": "model_path",
    "--backbone.weights": "backbone_weights",
}


def in_python(method: Callable[P, R]) -> Callable[P, R]:
    """Let the errors of a method name its parameters where those of the rooms below name flags."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except UserError as error:
            message = str(error)
            for flag, parameter in PARAMETERS.items():
                message = message.replace(flag, parameter)
            raise UserError(message) from error

    return call


class InContextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Classify embeddings with TabICL; what is fitted is the context.

    Args:
        preprocessing: ``raw``, ``post``, ``pca<k>`` or ``rotated<k>``, fitted on the rows that `fit` is given; or a
            preprocessing that carries its own statistics, as a context set has.
        checkpoint: of TabICL: ``mini`` (bundled), ``v2``, ``v1.1`` or ``v1``. Each tells 10 classes apart at once; more
            are asked about in groups (`synthicl.tabicl.class_tree`).
        model_path: a checkpoint file in its place.
        n_estimators: ensemble members in place of the preprocessing's own number, from 1 to 10,000.
        device: where backbone and TabICL run.
        random_state: seed of the ensemble's shuffles; a generator, or None for NumPy's, draws one in `fit`.

    Attributes:
        classes_: (C,), the sorted labels.
        n_features_in_: D, the length of an embedding.
        context_: the rows with their preprocessing, as a context set without images.
        seed_: the seed that was used.
        column_order_: (C,), where the probe's column of each of ``classes_`` is.
        temperature_: of the probabilities, which val gave a context set; 1, which changes nothing, without one.
    """

    def __init__(
        self,
        preprocessing: str | Preprocessing = "raw",
        checkpoint: str = "mini",
        model_path: str | Path | None = None,
        n_estimators: int | None = None,
        device: torch.device | str = "cpu",
        random_state: int | np.random.RandomState | None = 42,
    ) -> None:
        self.preprocessing = preprocessing
        self.checkpoint = checkpoint
        self.model_path = model_path
        self.n_estimators = n_estimators
        self.device = device
        self.random_state = random_state

    @in_python
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803
        """Take embeddings X (n, D) with labels y (n,) as the context.

        Raises:
            ValueError: X or y is not what scikit-learn calls a classification problem.
            UserError: unknown preprocessing or checkpoint, an impossible number of members, more columns than X has
                directions or another length of row than the preprocessing is for, or a missing file.
        """
        if self.n_estimators is not None:
            check_members(self.n_estimators, "n_estimators")
        rows, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        z = torch.from_numpy(np.array(rows, order="C"))  # torch knows no rows that run backwards
        if isinstance(self.preprocessing, Preprocessing):
            check_members(self.preprocessing.n_estimators, "preprocessing.n_estimators")
            mean = self.preprocessing.mean
            if mean is not None and len(mean) != z.shape[1]:
                raise UserError(
                    f"preprocessing={self.preprocessing.name}: is for rows of {len(mean)} numbers, and X has "
                    f"{z.shape[1]}. Give the embeddings it was fitted on, or its name."
                )
            preprocessing = replace(
                self.preprocessing, n_estimators=self.n_estimators or self.preprocessing.n_estimators
            )
        else:
            preprocessing = fit_preprocessing(self.preprocessing, z, self.n_estimators)
        context = ContextSet(z, torch.from_numpy(labels), [str(label) for label in classes], preprocessing)
        return self._fit_context(context, classes)

    def _fit_context(
        self, context: ContextSet, classes: np.ndarray, backbone_weights: str | Path | None = None
    ) -> Self:
        """Fit on a context set whose class index i stands for ``classes[i]``."""
        seed = self.random_state
        self.seed_ = int(seed if isinstance(seed, Integral) else check_random_state(seed).randint(2**31 - 1))
        path = find_checkpoint(self.checkpoint, self.model_path, context.metadata.get("tabicl_weights"))
        deployment = Deployment(context.preprocessing, checkpoint_name(self.checkpoint, self.model_path), path)
        self.probe_ = TabICLProbe(deployment, self.device, self.seed_, keeps_context=True)
        self.probe_.fit(context.rows)
        present = classes[context.labels.unique().numpy()]
        # scikit-learn's metrics expect sorted classes; the probe's columns follow the context set's own order.
        self.column_order_ = np.argsort(present)
        self.classes_ = present[self.column_order_]
        self.n_features_in_ = context.embeddings.shape[1]
        self.context_ = replace(context, images=None)
        self.temperature_ = context.calibration.temperature if context.calibration else 1.0
        self._backbone_weights = backbone_weights
        self._embedder: ImageEmbedder | None = None
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Class probabilities (q, C) of embeddings X (q, D); columns follow ``classes_``."""
        check_is_fitted(self)
        queries = validate_data(self, X, reset=False, dtype=np.float32)
        found = self.probe_.predict_proba(torch.from_numpy(np.array(queries, order="C")))
        return tempered(found, self.temperature_)[:, self.column_order_]

    def predict(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Labels (q,) of embeddings X (q, D)."""
        return self._most_likely(self.predict_proba(X))

    @in_python
    def predict_proba_images(self, images: Images) -> np.ndarray:
        """Class probabilities (q, C) of q paths, Pillow images, or a tensor (q, 3, H, W), uint8.

        Raises:
            UserError: the context set names no backbone or other weights than those at hand, or an image is unreadable.
        """
        return self.predict_proba(self.image_embedder()(images).numpy())

    def predict_images(self, images: Images) -> np.ndarray:
        """Labels (q,) of images; see `predict_proba_images`."""
        return self._most_likely(self.predict_proba_images(images))

    def _most_likely(self, probabilities: np.ndarray) -> np.ndarray:
        labels: np.ndarray = self.classes_[probabilities.argmax(1)]
        return labels

    @in_python
    def image_embedder(self) -> ImageEmbedder:
        """What turns images into rows that this classifier takes; made once.

        Raises:
            UserError: see `ImageEmbedder`.
        """
        check_is_fitted(self)
        return embedder_of_fitted(self)

    def save(self, folder: Path | str) -> None:
        """Write the classifier into ``folder`` as a context set of bare vectors, without pickle.

        Labels are kept as class names; those that were strings or integers come back as such.

        Raises:
            UserError: labels of another type, a label that cannot be a class name, or a disk that is full.
        """
        check_is_fitted(self)
        kind = "int" if np.issubdtype(self.classes_.dtype, np.integer) else "str"
        if kind == "str" and not all(isinstance(label, str) for label in self.classes_.tolist()):
            raise UserError(f"Labels of type {self.classes_.dtype} cannot be saved. Use strings or integers as labels.")
        metadata: dict[str, Any] = {
            **self.context_.metadata,
            "label_type": kind,
            "random_state": self.seed_,
            "tabicl_checkpoint": self.probe_.deployment.checkpoint,
        }
        replace(self.context_, metadata=metadata).save(folder)

    @classmethod
    def load(cls, folder: Path | str, model_path: str | Path | None = None, device: torch.device | str = "cpu") -> Self:
        """Read a classifier that `save` wrote; see `from_context_set`."""
        return cls.from_context_set(ContextSet.load(folder), model_path, device)

    @classmethod
    @in_python
    def from_context_set(
        cls,
        context: ContextSet | Path | str,
        model_path: str | Path | None = None,
        device: torch.device | str = "cpu",
        backbone_weights: str | Path | None = None,
    ) -> Self:
        """Build a fitted classifier from a context set; its class names become ``classes_``.

        Args:
            context: the set, or the folder that holds it: a finished run's, or one that `save` wrote; or the id of a
                dataset on the Hugging Face Hub, ``user/name``.
            model_path: a TabICL checkpoint file; None for the one that the set's metadata names.
            device: where backbone and TabICL run.
            backbone_weights: a local file of the backbone's weights, for images; None for the bundled or downloaded.

        Raises:
            UserError: no context set there, or a file it needs is missing or another.
        """
        if not isinstance(context, ContextSet):
            context = ContextSet.load(context)
        return cast(Self, open_context_set(context, model_path, device, backbone_weights, cls))


def open_context_set(
    context: ContextSet,
    model_path: str | Path | None = None,
    device: torch.device | str = "cpu",
    backbone_weights: str | Path | None = None,
    kind: type[InContextClassifier] | None = None,
) -> InContextClassifier:
    """What `InContextClassifier.from_context_set` does, with errors that name flags of a command line."""
    checkpoint = str(context.metadata.get("tabicl_checkpoint", "mini"))
    # A file of one's own is recorded by its name; where it lies now, only the user knows.
    if model_path is None and checkpoint.endswith(".ckpt") and not Path(checkpoint).is_file():
        raise UserError(
            f"The context set was made with the TabICL checkpoint file {checkpoint}. "
            "Supply it with --tabicl.model_path=PATH."
        )
    seed = context.metadata.get("random_state", 42)
    classifier = (kind or InContextClassifier)(
        context.preprocessing, checkpoint, model_path, device=device, random_state=seed
    )
    classes = np.array(context.class_names)
    if context.metadata.get("label_type") == "int":
        try:
            classes = classes.astype(np.int64)
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"The context set says that its labels are whole numbers, and they are {', '.join(classes[:3])}. "
                "Save the classifier again."
            ) from error
    return classifier._fit_context(context, classes, backbone_weights)


def embedder_of_fitted(classifier: InContextClassifier) -> ImageEmbedder:
    """What `InContextClassifier.image_embedder` does, with errors that name flags of a command line."""
    if classifier._embedder is None:
        context, weights = classifier.context_, classifier._backbone_weights
        classifier._embedder = embedder_of(context, weights, classifier.device)
    return classifier._embedder


def embedder_of(context: ContextSet, weights: str | Path | None, device: torch.device | str) -> ImageEmbedder:
    """What turns images into rows like those of a context set.

    Raises:
        UserError: see `ImageEmbedder`, or its backbone's embeddings are of another length.
    """
    embedder = ImageEmbedder(context.metadata, weights, device)
    length = embedder.backbone.embed_dim
    if length != context.embeddings.shape[1]:
        raise UserError(
            f"The context set's embeddings have {context.embeddings.shape[1]} numbers, and those of its backbone "
            f"{embedder.backbone.name} have {length}. Use the context set of a finished run."
        )
    return embedder
