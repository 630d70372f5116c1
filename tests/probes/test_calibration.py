import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError

from synthicl.probes.calibration import BINS, MAX_TEMPERATURE, brier, fit_temperature, reliability, tempered


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


def confident(sharpness, n=4000, classes=3):
    """Calibrated probabilities (n, 3) raised to a power, and classes drawn from the calibrated ones."""
    random = np.random.default_rng(1)
    calibrated = random.dirichlet(np.full(classes, 0.5), n)
    truth = (calibrated.cumsum(1) < random.random((n, 1))).sum(1).clip(max=classes - 1)
    powered = calibrated**sharpness
    return powered / powered.sum(1, keepdims=True), truth, np.arange(classes)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_what_made_probabilities_too_sharp_or_too_flat(sharpness):
    found = fit_temperature(*confident(sharpness))
    assert found == pytest.approx(sharpness, rel=0.06)


def test_no_other_temperature_has_a_lower_cross_entropy():
    probabilities, truth, classes = confident(2.5, 200)

    def cross_entropy(temperature):
        return log_loss(truth, tempered(probabilities, temperature), labels=classes)

    found = fit_temperature(probabilities, truth, classes)
    grid = np.geomspace(1 / MAX_TEMPERATURE, MAX_TEMPERATURE, 60)
    assert cross_entropy(found) <= min(map(cross_entropy, grid)) + 1e-9


def test_a_temperature_changes_no_answer_and_keeps_sums_and_type(answers):
    probabilities = answers[0].astype(np.float32)
    found = tempered(probabilities, 3.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert (found.argmax(1) == probabilities.argmax(1)).all() and found.max() < probabilities.max()
    assert tempered(probabilities, 1.0) is probabilities


def test_queries_without_an_error_leave_the_temperature_at_1_and_one_error_does_not():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    assert fit_temperature(probabilities, np.array([0, 1, 0]), np.arange(2)) == 1.0
    assert fit_temperature(probabilities, np.array([0, 1, 1]), np.arange(2)) != 1.0


def test_a_class_that_the_context_lacks_has_no_say_in_the_temperature():
    probabilities, truth, classes = confident(2.5, 300)
    more = np.concatenate([probabilities, probabilities[:40]]), np.concatenate([truth, np.full(40, 9)])
    assert fit_temperature(*more, classes) == pytest.approx(fit_temperature(probabilities, truth, classes))
