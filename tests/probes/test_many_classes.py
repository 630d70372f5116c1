"""More classes than TabICL was trained with: its automatic path (mixed radix, hierarchy) through the probe."""

import numpy as np
import pytest
import torch

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing


@pytest.mark.parametrize(("classes", "members", "least"), [(25, 2, 0.15), (1000, 1, 0.03)])
def test_probabilities_of_many_classes(classes, members, least):
    """Every class is a point in 8 dimensions, with two rows near it; 50 queries near some points."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(classes, 8, generator=generator)
    y = torch.arange(classes).repeat(2)
    z = corners[y] + 0.02 * torch.randn(len(y), 8, generator=generator)
    truth = torch.randint(classes, (50,), generator=generator)
    queries = corners[truth] + 0.02 * torch.randn(50, 8, generator=generator)
    probe = TabICLProbe(Deployment(fit_preprocessing("raw", z, members), "mini", MINI))
    probe.fit(LabelledEmbeddings(z, y))
    probabilities = probe.predict_proba(queries)
    assert probabilities.shape == (50, classes)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    # Far above chance, and far from perfect: the bundled checkpoint was trained with up to ten classes. Two hits among
    # a thousand classes come by chance once in a thousand times.
    assert (probabilities.argmax(1) == truth.numpy()).mean() > least
