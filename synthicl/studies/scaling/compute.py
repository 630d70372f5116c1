"""``scaling``: accuracy and time of TabICL against the share of the training rows in its context.

A context of synthetic rows stands on the same axes, so that it can be said how many real rows it is worth, and how much
time it saves. The shares of a draw are nested: a larger one keeps the rows of the smaller ones and adds to them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import OptimizeWarning, curve_fit
from torch import Tensor

from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.core.randomness import keyed_generator
from synthicl.core.settings import MAX_DRAWS
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import probe_factory
from synthicl.studies.contexts import synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Context, Job
from synthicl.studies.subject import Subject
from synthicl.tabicl.preprocessing import Preprocessing, columns_of, fit_preprocessing, most_columns

MIN_ROWS = {"stratified": 1, "shuffled": 2}  # of each class; of all, which a reduction needs to have a direction
MIN_GROWTH = 1.1  # of the fitted time from the fewest rows to the most, for an exponent to mean something
MAX_SHIFT = 0.5  # of an exponent when one number of rows is left out


def scaling(
    subject: Subject,
    results: Results,
    shares: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.6, 1.0),
    samplings: Sequence[str] = ("stratified", "shuffled"),
    seeds: int = 5,
    max_rows: int | None = None,
) -> None:
    """Score TabICL on test with growing shares of the training rows as its context, and with the synthetic rows.

    Args:
        subject: what is evaluated.
        results: where rows go.
        shares: of the training rows, in (0, 1].
        samplings: how a share is drawn: stratified (of each class, one row at least) or shuffled (of all rows, so that
            a small share may lack a class).
        seeds: how often each share is drawn.
        max_rows: larger shares are cut to about so many rows, as TabICL's cost grows with their square; None for all.

    Raises:
        UserError: a setting is out of range.
    """
    check(shares, samplings, seeds, max_rows)
    train, queries = subject.embedded("train"), {"test": subject.embedded("test")}
    most = min(max_rows or len(train.y), len(train.y)) / len(train.y)
    scorer = subject.scorer("scaling", results)
    make = probe_factory("tabicl")
    probe = make(subject.probe_setting())
    probe.fit(train.at(torch.arange(2)))  # no measured row pays for what happens once
    synthetic = list(synthetic_contexts(subject))
    ladder = sorted({min(share, most) for share in shares})

    def jobs() -> Iterator[Job]:
        """Draw by draw, with all shares in each turn: seconds of different shares are measured under the same load."""
        yield from (Job(context, probe) for context in synthetic)
        for draw in range(seeds):
            for share in ladder:
                for context in real_contexts(train, share, samplings, draw):
                    yield Job(context, probe)
                    if context.name != "all" and columns_of(subject.preprocessing.name):
                        fitted = fit_on_share(subject.preprocessing, context.rows.z)
                        yield Job(context, make(subject.probe_setting(fitted)))

    fits = 2 if columns_of(subject.preprocessing.name) else 1
    total = len(synthetic) + sum(1 if share == 1 else seeds * len(samplings) * fits for share in ladder)
    scorer.score(jobs(), queries, "Scoring shares of the training rows", total=total)


def check(shares: Sequence[float], samplings: Sequence[str], seeds: int, max_rows: int | None) -> None:
    """Refuse settings that are out of range, with the flag's name."""
    if not shares or not samplings:
        raise UserError("--shares, --samplings: nothing to score. Give at least one of each.")
    for share in shares:
        if not 0 < share <= 1:
            raise UserError(f"--shares={share}: a share of the training rows lies in (0, 1], for example 0.1.")
    for sampling in samplings:
        if sampling not in MIN_ROWS:
            raise UserError(f"--samplings={sampling}: unknown. Choose among: {', '.join(MIN_ROWS)}.")
    check_between(1, MAX_DRAWS, "--", seeds=seeds)
    check_at_least(2, "--", max_rows=max_rows)


def real_contexts(train: LabelledEmbeddings, share: float, samplings: Sequence[str], draw: int) -> Iterable[Context]:
    """Contexts of one draw of a share of the training rows, named by how they were drawn.

    The share of 1 is ``all``, in the first draw only.
    """
    for name in samplings if share < 1 else ["all"] * (draw == 0):
        rows = torch.arange(len(train.y)) if name == "all" else draw_share(train.y, share, name, draw)
        measures = {"share": share, "classes": float(len(train.y[rows].unique()))}
        yield Context(name, draw, "", train.at(rows), measures=measures)


def draw_share(y: Tensor, share: float, sampling: str, draw: int) -> Tensor:
    """Draw a share of the rows without replacement; a function of its arguments alone.

    Args:
        y: labels (N,).
        share: in (0, 1].
        sampling: ``stratified`` or ``shuffled``.
        draw: number of the draw.

    Returns:
        Indices (n,) into ``y``; those of a smaller share of the same draw are among them.
    """
    generator = keyed_generator("scaling", sampling, draw)
    groups = (
        [y == label for label in y.unique()] if sampling == "stratified" else [torch.ones_like(y, dtype=torch.bool)]
    )
    chosen = []
    for group in groups:
        members = group.nonzero().flatten()
        rows = max(round(share * len(members)), MIN_ROWS[sampling])
        chosen.append(members[torch.randperm(len(members), generator=generator)[:rows]])
    return torch.cat(chosen)


class SharePreprocessing(Preprocessing):
    """A preprocessing that was fitted on the rows of its context, which is what its rows in results.json say."""

    @property
    def statistics(self) -> Literal["share"]:
        """What it was fitted on."""
        return "share"


def fit_on_share(preprocessing: Preprocessing, z: Tensor) -> SharePreprocessing:
    """Fit a preprocessing like ``preprocessing`` on z (n, D) alone.

    Rows that span fewer directions than it has columns give a preprocessing of as many columns as there are
    directions; its name tells: ``rotated9`` in place of ``rotated16`` for ten rows.
    """
    columns = min(columns_of(preprocessing.name), most_columns(z))
    fitted = fit_preprocessing(f"{preprocessing.name.rstrip('0123456789')}{columns}", z, preprocessing.n_estimators)
    return SharePreprocessing(**vars(fitted))


def equivalent_rows(rows: np.ndarray, accuracy: np.ndarray, reached: float) -> float:
    """The fewest real rows with which an accuracy is reached, by interpolation that is linear in log(rows).

    Where the curve is not monotone the first crossing counts, so that nothing is worth more than it has to be.

    Args:
        rows: of the curve (k,), increasing.
        accuracy: of the curve (k,).
        reached: the accuracy in question.

    Returns:
        A number of rows; ``rows[0]`` if the curve starts there or above, ``inf`` if it never gets there.
    """
    above = np.flatnonzero(accuracy >= reached)
    if not len(above):
        return float("inf")
    end = above[0]
    if end == 0:
        return float(rows[0])
    part = (reached - accuracy[end - 1]) / (accuracy[end] - accuracy[end - 1])
    return float(rows[end - 1] * (rows[end] / rows[end - 1]) ** part)


class PowerLaw(NamedTuple):
    """``t = a + b n^p``, with the standard error of p."""

    a: float
    b: float
    p: float
    error: float


def fit_power_law(rows: np.ndarray, seconds: np.ndarray) -> PowerLaw | None:
    """Fit t = a + b n^p by least squares in log(t), as times err by a factor.

    Args:
        rows: n (k,), positive.
        seconds: t (k,), positive.

    Returns:
        The law, or None where the data do not give one: fewer than five different n, no convergence, times that hardly
        grow, an exponent that cannot be told from zero, or one that a single n decides: without it there is no law, or
        the exponent moves by more than `MAX_SHIFT`.
    """
    law = _fit(rows, seconds)
    if law is None:
        return None
    for n in np.unique(rows):
        without = _fit(rows[rows != n], seconds[rows != n])
        if without is None or abs(without.p - law.p) > MAX_SHIFT:
            return None
    return law


def _fit(rows: np.ndarray, seconds: np.ndarray) -> PowerLaw | None:
    """The law, whether or not one n decides it."""
    if len(np.unique(rows)) < 4:
        return None
    n, t = rows / np.exp(np.log(rows).mean()), seconds / seconds.min()  # parameters of order one

    def log_seconds(n: np.ndarray, a: float, log_b: float, p: float) -> np.ndarray:
        values: np.ndarray = np.log(a + np.exp(log_b) * n**p)
        return values

    start, bounds = (0.5, np.log(np.median(t)), 1.0), ([0, -np.inf, 0], np.inf)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)  # a singular fit
            (a, log_b, p), covariance = curve_fit(log_seconds, n, np.log(t), start, bounds=bounds, xtol=1e-12)
    except (RuntimeError, OptimizeWarning):
        return None
    error, fitted = float(np.sqrt(covariance[2, 2])), log_seconds(n, a, log_b, p)
    if error >= p or fitted.max() - fitted.min() < np.log(MIN_GROWTH):
        return None
    scale = seconds.min()
    return PowerLaw(float(a * scale), float(np.exp(log_b) * scale * (n[0] / rows[0]) ** p), float(p), error)
