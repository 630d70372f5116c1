import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.classification import MulticlassCalibrationError

from synthicl.probes.calibration import BINS, brier, reliability


@pytest.fixture
def answers():
    """Probabilities (q, 4) of the classes 1, 3, 4 and 7, and true classes."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(4, 0.4), 500)
    return probabilities, np.array([1, 3, 4, 7])[random.integers(0, 4, 500)], np.array([1, 3, 4, 7])


def test_brier_equals_scikit_learn(answers):
    probabilities, truth, classes = answers
    expected = brier_score_loss(truth, probabilities, labels=classes, scale_by_half=False)
    assert brier(*answers) == pytest.approx(expected)


def test_a_class_that_the_context_lacks_has_no_probability():
    assert brier(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([9, 0]), np.array([0, 1])) == pytest.approx((2 + 0.5) / 2)


def test_calibration_error_equals_torchmetrics(answers):
    probabilities, truth, classes = answers
    metric = MulticlassCalibrationError(4, n_bins=BINS, norm="l1")
    expected = metric(torch.from_numpy(probabilities), torch.from_numpy(np.searchsorted(classes, truth)))
    found = reliability(probabilities.max(1), classes[probabilities.argmax(1)] == truth)
    assert found.error == pytest.approx(float(expected), abs=1e-6)
    assert found.number.sum() == 500


def test_bins_by_hand():
    found = reliability(np.array([1.0, 0.99, 0.5, 1 / 15]), np.array([1, 0, 1, 1]))
    assert found.number[[0, 7, 14]].tolist() == [1, 1, 2]
    assert found.accuracy[14] == 0.5 and found.confidence[14] == pytest.approx(0.995)
    assert np.isnan(found.accuracy[3])
    assert found.error == pytest.approx((2 * 0.495 + 0.5 + 14 / 15) / 4)
