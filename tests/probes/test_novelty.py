import numpy as np
import pytest
import torch
from pytorch_ood.detector import ViM
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from synthicl.probes.novelty import DIRECTIONS, fit_novelty


@pytest.fixture(scope="module")
def z():
    """300 embeddings (300, 150) of 20 strong directions and noise."""
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(300, 20, generator=generator) @ torch.randn(20, 150, generator=generator)
    return 2.0 + strong + 0.3 * torch.randn(300, 150, generator=generator)


def test_it_is_what_a_principal_component_analysis_of_unit_vectors_does_not_reconstruct(z):
    unit = normalize(z.double().numpy())
    pca = PCA(DIRECTIONS).fit(unit[:200])
    expected = np.linalg.norm(unit[200:] - pca.inverse_transform(pca.transform(unit[200:])), axis=1)
    np.testing.assert_allclose(fit_novelty(z[:200])(z[200:]), expected, rtol=1e-4)


def test_it_is_the_virtual_logit_of_vim_in_pytorch_ood(z):
    novelty = fit_novelty(z[:200])
    centred = torch.from_numpy(normalize(z.double().numpy())) - novelty.mean.double()
    # One logit that is always 1: the energy is constant, and what is left is the virtual logit.
    vim = ViM(None, d=DIRECTIONS, w=torch.zeros(1, 150), b=torch.ones(1))
    vim.fit_features(centred[:200], torch.zeros(200, dtype=torch.long))
    expected = (vim.predict_features(centred[200:]).numpy() + 1) / vim.alpha
    np.testing.assert_allclose(novelty(z[200:]), expected, rtol=1e-3)


def test_neither_the_length_of_an_embedding_nor_its_neighbours_matter(z):
    novelty = fit_novelty(z[:200])
    np.testing.assert_allclose(novelty(7 * z[200:]), novelty(z[200:]), rtol=1e-5)
    np.testing.assert_allclose(novelty(z[250:251]), novelty(z[200:])[50:51], rtol=1e-5)


def test_another_direction_is_further_than_any_image_of_the_kind(z):
    novelty = fit_novelty(z[:200])
    other = torch.randn(100, 150, generator=torch.Generator().manual_seed(9))
    assert novelty(other).min() > novelty(z[200:]).max()


@pytest.mark.parametrize(("images", "kept"), [(2, 1), (11, 5), (101, 50), (300, DIRECTIONS)])
def test_at_most_half_of_the_directions_are_kept(z, images, kept):
    novelty = fit_novelty(z[:images])
    assert novelty.directions.shape == (150, kept)
    assert novelty.numbers == 150 * (kept + 1)
    np.testing.assert_allclose(novelty.directions.T @ novelty.directions, np.eye(kept), atol=1e-5)
