import pytest
import torch
from sklearn.decomposition import PCA

from synthicl.core.errors import UserError
from synthicl.tabicl.preprocessing import Preprocessing, columns_of, fit_preprocessing


@pytest.fixture
def z():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator) * torch.tensor([5.0, 4, 3, 2, 1, 0.5])
    return torch.randn(50, 6, generator=generator) @ mixing.T + 10


def distances(z):
    return torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize(("name", "members"), [("raw", 8), ("post", 32)])
def test_raw_embeddings_stay_as_they_are(z, name, members):
    preprocessing = fit_preprocessing(name, z)
    assert preprocessing(z) is z
    assert preprocessing == Preprocessing(name, members)
    assert preprocessing.statistics == "context"
    assert preprocessing.numbers == 0


@pytest.mark.parametrize("name", ["raw", "post", "pca2", "rotated2"])
def test_number_of_members_can_be_given(z, name):
    assert fit_preprocessing(name, z, 3).n_estimators == 3


@pytest.mark.parametrize("k", [1, 3, 6])
def test_pca_equals_scikit_learns_up_to_sign(z, k):
    preprocessing = fit_preprocessing(f"pca{k}", z)
    assert preprocessing.n_estimators == 8
    new = torch.randn(7, 6) * 3
    theirs = torch.from_numpy(PCA(k, svd_solver="full").fit(z.double().numpy()).transform(new.double().numpy()))
    ours = preprocessing(new).double()
    assert ours.shape == (7, k)
    torch.testing.assert_close(ours * (ours * theirs).sum(0).sign(), theirs, atol=1e-4, rtol=1e-4)


def test_sign_is_the_same_however_the_rows_lie(z):
    preprocessing = fit_preprocessing("pca4", z)
    mirrored = fit_preprocessing("pca4", 2 * z.mean(0) - z.flip(0))
    torch.testing.assert_close(preprocessing.projection, mirrored.projection, atol=1e-4, rtol=1e-4)
    largest = preprocessing.projection.gather(0, preprocessing.projection.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("k", [1, 4, 6])
def test_rotated_is_pca_times_an_orthogonal_matrix(z, k):
    pca, rotated = fit_preprocessing(f"pca{k}", z), fit_preprocessing(f"rotated{k}", z)
    rotation = pca.projection.T @ rotated.projection
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(k), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pca(z) @ rotation, rotated(z), atol=1e-3, rtol=1e-4)


def test_rotation_depends_on_the_number_of_columns_alone(z):
    def rotation(data):
        return fit_preprocessing("pca4", data).projection.T @ fit_preprocessing("rotated4", data).projection

    other = torch.randn(20, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotation(z), rotation(other), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["pca6", "rotated6"])
def test_all_directions_keep_all_distances(z, name):
    torch.testing.assert_close(distances(fit_preprocessing(name, z)(z)), distances(z), atol=1e-4, rtol=1e-4)


def test_rotated_keeps_the_distances_of_pca_and_evens_the_variances_out(z):
    pca, rotated = fit_preprocessing("pca4", z)(z), fit_preprocessing("rotated4", z)(z)
    torch.testing.assert_close(distances(rotated), distances(pca), atol=1e-4, rtol=1e-4)
    assert rotated.var(0).max() / rotated.var(0).min() < pca.var(0).max() / pca.var(0).min()


@pytest.mark.parametrize("name", ["pca3", "rotated3"])
def test_fitted_on_train_only(z, name):
    """What it says of a query depends on no other query, and on the training embeddings alone."""
    preprocessing = fit_preprocessing(name, z[:40])
    assert preprocessing.statistics == "train"
    assert preprocessing.numbers == 6 + 6 * 3
    alone, among = preprocessing(z[40:41]), preprocessing(torch.cat([z[40:41], 1e6 * z[41:]]))[:1]
    torch.testing.assert_close(alone, among)
    torch.testing.assert_close(preprocessing(z[:40]).mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert preprocessing(z).mean(0).abs().max() > 1e-2


def test_differentiable_and_follows_the_precision(z):
    z = z.double().requires_grad_()
    out = fit_preprocessing("rotated3", z.detach())(z)
    assert out.dtype == torch.float64
    (gradient,) = torch.autograd.grad(out.square().sum(), z)
    assert (gradient != 0).any(1).all()


@pytest.mark.parametrize(
    "name", ["", "auto", "Raw", "pca", "pca0", "pca-1", "pca1.5", "PCA16", "rotated", "rotated 16", "pca16x"]
)
def test_message_for_an_unknown_name(z, name):
    message = rf"^--tabicl\.preprocessing={name}: unknown\. Choose auto, raw, post, pca<k> or rotated<k>, for example"
    for check in (columns_of, lambda name: fit_preprocessing(name, z)):
        with pytest.raises(UserError, match=message):
            check(name)


@pytest.mark.parametrize(("name", "columns"), [("raw", 0), ("post", 0), ("pca1", 1), ("rotated64", 64)])
def test_known_names(name, columns):
    assert columns_of(name) == columns


@pytest.mark.parametrize(("rows", "name"), [(50, "pca7"), (50, "rotated7"), (4, "rotated5")])
def test_message_for_too_many_columns(z, rows, name):
    message = (
        rf"--tabicl\.preprocessing={name}: the {rows} training embeddings have only {min(rows - 1, 6)} directions\."
    )
    with pytest.raises(UserError, match=message):
        fit_preprocessing(name, z[:rows])
