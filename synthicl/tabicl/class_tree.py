"""More classes than an in-context learner has outputs: a tree of questions, similar classes together.

At the root the classes are put into as many groups as there are outputs, by Ward's clustering of their means (J. H.
Ward, JASA 58, 1963), and the learner is asked for the group; within each group it is asked again. The probability of a
class is the product along its path. Similar classes are so told apart last, by a context of their own.

tabicl has a way of its own, a tree of groups of consecutive labels (TabICL v1, section 5, https://arxiv.org/abs/2502.05564)
and labels written as several digits (v2). Its published checkpoints are scored with it by their authors and here. The
bundled ones have never seen such labels; docs/many-classes.md has what they reach with the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
from sklearn.cluster import AgglomerativeClustering

if TYPE_CHECKING:
    from tabicl import TabICLClassifier


class ClassTree:
    """A classifier of any number of classes, made of learners of few.

    Args:
        learner: makes a learner, not fitted yet.
        outputs: how many classes it tells apart, 2 at least.

    Attributes:
        classes_: sorted labels, (C,), after `fit`; columns of `predict_proba` follow them.
        learner_: tells the groups apart.
    """

    def __init__(self, learner: Callable[[], TabICLClassifier], outputs: int) -> None:
        self.learner = learner
        self.outputs = outputs

    def fit(self, columns: np.ndarray, labels: np.ndarray) -> Self:
        """Fit on a context: columns (n, k), labels (n,)."""
        self.classes_, classes = np.unique(labels, return_inverse=True)
        if len(self.classes_) <= self.outputs:
            self.groups_ = np.arange(len(self.classes_))
        else:
            means = np.stack([columns[classes == label].mean(0) for label in range(len(self.classes_))])
            self.groups_ = AgglomerativeClustering(self.outputs).fit_predict(means)
        self.learner_ = self.learner().fit(columns, self.groups_[classes])
        self.branches_ = {}
        for group, size in enumerate(np.bincount(self.groups_)):
            if size > 1:
                inside = self.groups_[classes] == group
                self.branches_[group] = ClassTree(self.learner, self.outputs).fit(columns[inside], labels[inside])
        return self

    def predict_proba(self, columns: np.ndarray) -> np.ndarray:
        """Probabilities (q, C) of columns (q, k)."""
        found: np.ndarray = self.learner_.predict_proba(columns)[:, self.groups_]
        for group, branch in self.branches_.items():
            found[:, self.groups_ == group] *= branch.predict_proba(columns)
        return found

    def learners(self) -> Iterator[TabICLClassifier]:
        """All learners of the tree, from the root on."""
        yield self.learner_
        for branch in self.branches_.values():
            yield from branch.learners()
