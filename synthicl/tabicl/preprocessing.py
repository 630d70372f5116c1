"""Preprocessings: everything between an embedding and TabICL's own preprocessing.

TabICL standardises every column on the context alone. After a PCA that blows the directions of low variance up to the
weight of the first, which costs a context of one row per class up to 20 points (docs/bundled.md). A fixed random
rotation after the PCA gives all columns nearly the same variance, so that standardising them changes distances little.

| name | rows | members | statistics |
| --- | --- | --- | --- |
| ``raw`` | embeddings as they are | 8 (tabicl's default) | context |
| ``post`` | embeddings as they are | 32 (the post's; it used checkpoint v1.1) | context |
| ``pca<k>`` | first k principal components of the training embeddings | 8 | train |
| ``rotated<k>`` | the same, rotated by a fixed random orthogonal matrix | 8 | train |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from numbers import Integral
from string import digits
from typing import Literal

import torch
from torch import Tensor

from synthicl.core.errors import UserError
from synthicl.core.randomness import keyed_generator

MAX_MEMBERS = 10_000  # of an ensemble; each is a forward pass of its own
_REDUCTION = re.compile(r"(pca|rotated)([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True)
class Preprocessing:
    """A preprocessing with the statistics it carries.

    Attributes:
        name: see the module's table.
        n_estimators: ensemble members of ``TabICLClassifier``.
        mean: (D,), subtracted from an embedding; None without a reduction.
        projection: (D, k), what the difference is multiplied by; None without a reduction.
    """

    name: str
    n_estimators: int
    mean: Tensor | None = None
    projection: Tensor | None = None

    @property
    def statistics(self) -> Literal["context", "train", "share"]:
        """What it was fitted on."""
        return "context" if self.projection is None else "train"

    @property
    def numbers(self) -> int:
        """How many numbers about the training data it carries besides the context rows."""
        return 0 if self.mean is None or self.projection is None else self.mean.numel() + self.projection.numel()

    def to(self, device: torch.device) -> Preprocessing:
        """The same with its statistics on a device."""
        if self.mean is None or self.projection is None:
            return self
        return replace(self, mean=self.mean.to(device), projection=self.projection.to(device))

    def __call__(self, z: Tensor) -> Tensor:
        """Turn embeddings (N, D) into TabICL's columns (N, k) or (N, D); differentiable."""
        if self.mean is None or self.projection is None:
            return z
        return (z - self.mean.to(z)) @ self.projection.to(z)


def check_members(n_estimators: object, where: str) -> None:
    """Check a number of ensemble members.

    Args:
        n_estimators: what was given.
        where: what the message names.

    Raises:
        UserError: it is no whole number from 1 to `MAX_MEMBERS`.
    """
    whole = isinstance(n_estimators, Integral) and not isinstance(n_estimators, bool)
    if not whole or not 1 <= n_estimators <= MAX_MEMBERS:  # type: ignore[operator]  # it is a number then
        raise UserError(f"{where}={str(n_estimators)[:40]}: must be a whole number from 1 to {MAX_MEMBERS}.")


def columns_of(name: str, flag: str = "--tabicl.preprocessing") -> int:
    """The number of columns a preprocessing reduces to, 0 for none; checks a name as far as one can without data.

    Args:
        name: see the module's table.
        flag: what the message names.

    Raises:
        UserError: unknown preprocessing.
    """
    match = _REDUCTION.fullmatch(name)
    if not match and name not in {"raw", "post"}:
        raise UserError(
            f"{flag}={name[:80]}: unknown. Choose {'auto, ' if flag == '--tabicl.preprocessing' else ''}raw, post, "
            "pca<k> or rotated<k>, for example rotated16."
        )
    return int(match[2]) if match else 0


def most_columns(z_train: Tensor) -> int:
    """Directions in which centred embeddings (N, D) can vary: what a reduction can have at most."""
    return min(len(z_train) - 1, z_train.shape[1])


def fit_preprocessing(name: str, z_train: Tensor, n_estimators: int | None = None) -> Preprocessing:
    """Fit a preprocessing on training embeddings; nothing else may reach it.

    Args:
        name: see the module's table.
        z_train: clean embeddings of the training split, (N, D).
        n_estimators: ensemble members in place of the preprocessing's own number.

    Raises:
        UserError: unknown name, an impossible number of members, or more columns than the training embeddings have
            directions.
    """
    columns = columns_of(name)
    if n_estimators is not None:
        check_members(n_estimators, "--tabicl.n_estimators")
    members = n_estimators or (32 if name == "post" else 8)
    if not columns:
        return Preprocessing(name, members)
    mean = z_train.double().mean(0)
    directions = torch.linalg.svd(z_train.double() - mean, full_matrices=False).Vh[: most_columns(z_train)]
    if columns > len(directions):
        most = f" or {name.rstrip(digits)}{len(directions)}" if len(directions) else ""
        raise UserError(
            f"--tabicl.preprocessing={name}: the {len(z_train)} training embeddings have only {len(directions)} "
            f"directions. Choose raw{most}, or add images."
        )
    components = directions[:columns]
    # The sign of a singular vector is arbitrary: make its largest entry positive, so that every machine agrees.
    signs = components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    projection = (components * signs).T
    if name.startswith("rotated"):
        gaussian = torch.randn(columns, columns, dtype=torch.float64, generator=keyed_generator("rotation", columns))
        projection = projection @ torch.linalg.qr(gaussian).Q
    return Preprocessing(name, members, mean.float(), projection.float())
