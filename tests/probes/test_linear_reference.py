"""The paper's linear probe against a training loop written out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from synthicl.backbones import create_backbone
from synthicl.core.randomness import keyed_generator
from synthicl.data.augmentation import Augmentation
from synthicl.data.datasets.digits import load
from synthicl.data.transforms import crop_centre
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.linear_reference import BATCH_SIZE, EPOCHS, LinearReferenceProbe, make
from synthicl.probes.probe import ProbeSetting
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing

AUGMENTATION = Augmentation(area=(0.4, 1.0), noise_probability=1.0)
LABELS = torch.arange(7) % 3 + 4
IMAGES = torch.randint(256, (7, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone():
    return create_backbone("mini")


@torch.no_grad()
def by_hand(backbone, images, y, augmentation, seed, epochs, batch_size):
    """Adam (Kingma and Ba, algorithm 1) on the gradient in closed form, one image after the other in the backbone."""
    classes = y.unique()
    generator = keyed_generator(seed, "linear_reference")
    weight = torch.randn(len(classes), backbone.embed_dim, generator=generator) / 100
    head = torch.cat([weight, torch.zeros(len(classes), 1)], 1).double()
    first, second, step = torch.zeros_like(head), torch.zeros_like(head), 0
    batch_size = min(batch_size, len(y))
    for epoch in range(epochs):
        lr = 0.001 * batch_size / 256 * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = torch.randperm(len(y), generator=generator)
        for start in range(0, len(y), batch_size):
            batch = order[start : start + batch_size]
            gradient = torch.zeros_like(head)
            views = [crop_centre(images[row][None] / 255, 32) for row in batch]
            if augmentation is not None:
                drawn = augmentation.draw(len(batch), 40, seed, "linear_reference", step)
                quiet = replace(augmentation, noise_probability=0)
                views = [
                    quiet.apply(images[row][None] / 255, drawn[n : n + 1], 32) for n, row in enumerate(batch.tolist())
                ]
            for row, view in zip(batch, views, strict=True):
                z = torch.cat([backbone(view)[0].double(), torch.ones(1, dtype=torch.float64)])
                residual = (head @ z).softmax(0) - (classes == y[row]).double()
                gradient += residual[:, None] * z / len(batch)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            head -= lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return head[:, :-1], head[:, -1]


@pytest.mark.parametrize("augmentation", [AUGMENTATION, None])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_equals_a_training_loop_written_out(backbone, augmentation, batch_size):
    probe = LinearReferenceProbe(backbone, 32, augmentation, seed=3, epochs=6, batch_size=batch_size)
    probe.fit(LabelledEmbeddings(torch.zeros(7, 1), LABELS), IMAGES)
    weight, bias = by_hand(backbone, IMAGES, LABELS, augmentation, 3, 6, batch_size)
    queries = torch.randn(5, backbone.embed_dim, generator=torch.Generator().manual_seed(1))
    expected = (queries.double() @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(probe.predict_proba(queries), expected, atol=2e-6)


def test_settings_are_the_papers(backbone):
    preprocessing = Preprocessing("raw", 1)
    probe = make(
        ProbeSetting(Deployment(preprocessing, "mini", MINI), backbone=backbone, augmentation=AUGMENTATION, seed=4)
    )
    assert (probe.epochs, probe.batch_size) == (EPOCHS, BATCH_SIZE) == (1000, 100)
    assert (probe.crop_size, probe.seed) == (backbone.image_size, 4)
    assert probe.augmentation == replace(AUGMENTATION, noise_probability=0)
    assert make(ProbeSetting(Deployment(preprocessing, "mini", MINI), backbone=backbone, crop_size=16)).crop_size == 16
    with pytest.raises(ValueError, match="linear_reference needs a backbone"):
        make(ProbeSetting(Deployment(preprocessing, "mini", MINI)))


def fitted(backbone, seed=0, epochs=2):
    probe = LinearReferenceProbe(backbone, 32, AUGMENTATION, seed, epochs)
    probe.fit(LabelledEmbeddings(torch.zeros(7, 1), LABELS), IMAGES)
    return probe.predict_proba(torch.eye(backbone.embed_dim))


def start(backbone, seed):
    """W (C, D) and b (C,) before the first step."""
    probe = LinearReferenceProbe(backbone, 32, None, seed, epochs=0)
    probe.fit(LabelledEmbeddings(torch.zeros(40, 1), torch.arange(40)), IMAGES[:1].expand(40, -1, -1, -1))
    return probe._weight, probe._bias


def test_the_head_starts_as_the_public_codes(backbone):
    """W ~ N(0, 0.01^2), b = 0; the bounds are six standard errors of mean, standard deviation and kurtosis."""
    weight, bias = start(backbone, seed=0)
    assert weight.shape == (40, backbone.embed_dim)
    assert torch.equal(bias, torch.zeros(40))
    w, n = weight.double().flatten() / 0.01, weight.numel()
    assert abs(w.mean()) < 6 / math.sqrt(n)
    assert abs(w.std() - 1) < 6 / math.sqrt(2 * n)
    assert abs((w**4).mean() - 3) < 6 * math.sqrt(96 / n)  # 1.8 for a uniform distribution
    assert torch.equal(start(backbone, seed=0)[0], weight)
    assert not torch.equal(start(backbone, seed=1)[0], weight)


def test_it_is_a_function_of_its_seed_and_leaves_random_state_alone(backbone):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = fitted(backbone)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(fitted(backbone), first)
    assert not np.array_equal(fitted(backbone, seed=1), first)
    with torch.inference_mode():
        np.testing.assert_array_equal(fitted(backbone), first)
    with torch.no_grad():
        np.testing.assert_array_equal(fitted(backbone), first)
    assert not backbone.training
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_it_learns_digits(backbone):
    """Two hundred images, eighty epochs; the untrained head guesses."""
    splits = load(None).splits

    def digits(split, count):
        images = torch.from_numpy(np.stack(splits[split].images[:count]))[:, None].expand(-1, 3, -1, -1)
        return images.contiguous(), torch.from_numpy(splits[split].labels[:count])

    images, y = digits("train", 200)
    queries, truth = digits("val", 100)
    with torch.no_grad():
        z = backbone(queries / 255)
    accuracy = []
    for epochs in (0, 80):
        probe = LinearReferenceProbe(backbone, 32, Augmentation(flip=0.0, area=(0.6, 1.0)), epochs=epochs)
        probe.fit(LabelledEmbeddings(z, y), images)
        accuracy.append((probe.predict_proba(z).argmax(1) == truth.numpy()).mean())
    assert accuracy[0] < 0.4 < 0.75 < accuracy[1]
