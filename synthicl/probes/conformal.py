r"""Split conformal prediction: sets of classes that hold the true one with a probability that is asked for.

Each of n held-out images has a score s_i, here 1 minus the probability that its own class was given. With

    t = the ceil((n + 1) a)-th smallest score,    set(x) = {c : 1 - p_c(x) <= t},

the set of a new image that is exchangeable with the n holds its class with probability a at least, and a + 1 / (n + 1)
at most where no scores are tied: V. Vovk, A. Gammerman and G. Shafer, "Algorithmic Learning in a Random World", 2005;
A. N. Angelopoulos and S. Bates, 2021, https://arxiv.org/abs/2107.07511. The probability is over images of all classes
together, and over the n as well: a rare class may be held less often.

This score makes the smallest sets on average (M. Sadinle, J. Lei and L. Wasserman, "Least Ambiguous Set-Valued
Classifiers with Bounded Error Levels", JASA 114, 2019, https://arxiv.org/abs/1609.00451) and needs no random draws, as
adaptive prediction sets do to be exact. What it leaves empty gets its most probable class, which only adds to coverage:
where the classifier is right more often than is asked for, coverage is that of its answers.

The same t of other scores, such as how unlike the training images something is, rejects at most 1 - a of the images
that are exchangeable with the n: S. Bates et al., "Testing for Outliers with Conformal p-values", Annals of Statistics
51, 2023, https://arxiv.org/abs/2104.08279.
"""

from __future__ import annotations

import math

import numpy as np

ROUNDING = 1e-9  # (99 + 1) * 0.95 is 95, whatever the last bit says


def threshold(scores: np.ndarray, level: float) -> float:
    """The score t that a new image stays below or at with probability ``level``, see the module.

    Args:
        scores: (n,), of held-out images.
        level: between 0 and 1.

    Returns:
        t; infinite where the level is above `highest_level` of n.
    """
    rank = math.ceil((len(scores) + 1) * level - ROUNDING)
    return float(np.sort(scores)[max(rank, 1) - 1]) if rank <= len(scores) else math.inf


def highest_level(n: int) -> float:
    """The largest level that n held-out images can tell from certainty: n / (n + 1)."""
    return n / (n + 1)


def prediction_sets(probabilities: np.ndarray, at_most: float) -> np.ndarray:
    """Which classes are in the set of each query, (q, C), bool; never none.

    Args:
        probabilities: (q, C).
        at_most: `threshold` of the scores 1 - p; where it is infinite every class is in every set.
    """
    chosen: np.ndarray = 1 - probabilities <= at_most
    chosen[np.arange(len(chosen)), probabilities.argmax(1)] = True
    return chosen
