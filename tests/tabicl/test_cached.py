"""The classifier with its context inside against the wrapper that computes the context with the queries."""

import numpy as np
import pytest
import torch
from tabicl import TabICLClassifier
from tabicl._model.tabicl import TabICL

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl import cached
from synthicl.tabicl.cached import CachedTabICL, keep_context, why_not_kept
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing

TINY = {
    **{"embed_dim": 16, "col_num_blocks": 2, "col_nhead": 2, "col_num_inds": 4, "row_num_blocks": 2, "row_nhead": 2},
    **{"row_num_cls": 2, "icl_num_blocks": 2, "icl_nhead": 2, "zero_init": False},
}
V1 = {"col_affine": True, "col_feature_group": False, "col_target_aware": False, "col_ssmax": False, "icl_ssmax": False}
LAYOUTS = {
    "v2": {"row_rope_interleaved": False},  # beside TINY the defaults: grouped columns, labels in the column stage
    "groups without overlap": {"col_feature_group": "valid", "bias_free_ln": True},
    "norms last": {"norm_first": False},
}


def problem(classes, per_class, columns, queries=9):
    generator = torch.Generator().manual_seed(classes)
    y = torch.arange(classes).repeat(per_class)
    means = 2 * torch.randn(classes, columns, generator=generator)
    context = means[y] + torch.randn(len(y), columns, generator=generator)
    context[0, 0] = 40.0  # an outlier
    context[:, 1] = 7.0  # a column that the wrapper leaves out
    return context, y, 2 * torch.randn(queries, columns, generator=generator)


def wrapper(context, y, path=MINI, members=8):
    deployed = TabICLClassifier(members, model_path=path, allow_auto_download=False, device="cpu")
    return deployed.fit(context.numpy(), y.numpy())


def probabilities(module, queries):
    with torch.no_grad():
        return module.eval()(queries).numpy()


@pytest.mark.parametrize(("classes", "per_class", "columns", "members"), [(10, 1, 8, 8), (3, 12, 5, 8), (2, 40, 4, 1)])
def test_it_is_the_deployed_classifier(classes, per_class, columns, members):
    context, y, queries = problem(classes, per_class, columns)
    queries[0] *= 30  # far outside, where values are pulled in
    deployed = wrapper(context, y, members=members)
    expected = deployed.predict_proba(queries.numpy())
    module = CachedTabICL(deployed)
    np.testing.assert_allclose(probabilities(module, queries), expected, atol=1e-5)
    np.testing.assert_allclose(deployed.predict_proba(queries.numpy()), expected, atol=1e-5)  # it keeps its context now
    alone = np.concatenate([probabilities(module, query[None]) for query in queries])
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def checkpoint(path, layout):
    """A checkpoint of random numbers in which every part acts on the result."""
    torch.manual_seed(0)
    config = TINY | layout
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in TabICL(**config).state_dict().items()}
    torch.save({"config": config, "state_dict": state}, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_checkpoints(layout, tmp_path):
    context, y, queries = problem(4, 3, 7)
    deployed = wrapper(context, y, checkpoint(tmp_path / "x.ckpt", LAYOUTS[layout]), 4)
    expected = deployed.predict_proba(queries.numpy())
    assert expected.std(0).min() > 1e-4  # the queries are told apart, so that equality says something
    np.testing.assert_allclose(probabilities(CachedTabICL(deployed), queries), expected, atol=1e-5)


def test_the_layout_of_v1_is_predicted_as_it_was(tmp_path):
    """tabicl itself predicts otherwise from a kept context there; when it no longer does, it can be kept."""
    context, y, queries = problem(4, 3, 7)
    deployed = wrapper(context, y, checkpoint(tmp_path / "x.ckpt", V1), 4)
    expected = deployed.predict_proba(queries.numpy())
    assert not keep_context(deployed)
    assert "has the layout of TabICL v1" in why_not_kept(deployed)
    np.testing.assert_array_equal(deployed.predict_proba(queries.numpy()), expected)
    deployed.cache_mode_ = "kv"
    deployed._build_kv_cache()
    assert np.abs(deployed.predict_proba(queries.numpy()) - expected).max() > 1e-3


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of scipy, before the wrapper clips
def test_a_query_that_overflows_is_clipped_and_the_others_are_not():
    """The context is so near to equal in a column that the power transform of a query overflows in float32."""
    context, y, queries = problem(2, 6, 4)
    context[:, 2] = 1e-8 * torch.linspace(0, 1, 12).pow(0.2)
    queries[:, 2] = 0
    queries[0, 2] = 3
    deployed = wrapper(context, y)
    exponents = deployed.ensemble_generator_.preprocessors_["power"].normalizer_.lambdas_
    assert exponents.max() > 20  # 100 to the power of it is beyond float32
    expected = np.concatenate([deployed.predict_proba(query[None].numpy()) for query in queries])
    np.testing.assert_allclose(probabilities(CachedTabICL(deployed), queries), expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_a_power_of_the_probabilities(temperature):
    context, y, queries = problem(5, 2, 6)
    deployed = wrapper(context, y)
    expected = probabilities(CachedTabICL(deployed), queries).astype(float) ** (1 / temperature)
    found = probabilities(CachedTabICL(deployed, temperature), queries)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_what_is_said_of_the_size_is_what_it_takes(monkeypatch):
    context, y, _ = problem(4, 3, 7)
    deployed = wrapper(context, y, members=5)
    assert keep_context(deployed)
    entries = [
        entry
        for cache in deployed.model_kv_cache_.values()
        for stage in (cache.col_cache, cache.icl_cache)
        for entry in stage.kv.values()
    ]
    size = sum(tensor.nbytes for entry in entries for tensor in (entry.key, entry.value))
    monkeypatch.setattr(cached, "MAX_CACHE", size)
    assert why_not_kept(deployed) == ""
    monkeypatch.setattr(cached, "MAX_CACHE", size - 1)
    assert "the keys and values of the context take" in why_not_kept(deployed)


def test_more_classes_than_are_told_apart_at_once():
    context, y, queries = problem(12, 2, 6)
    deployment = Deployment(Preprocessing("raw", 2), "mini", MINI)
    kept, plain = TabICLProbe(deployment, keeps_context=True), TabICLProbe(deployment)
    for probe in (kept, plain):
        probe.fit(LabelledEmbeddings(context, y))
    np.testing.assert_allclose(kept.predict_proba(queries), plain.predict_proba(queries), atol=1e-5)  # node by node
    message = r"^The context cannot be kept: there are 12 classes, and TabICL tells 10 apart at once\. Classify with"
    with pytest.raises(UserError, match=message):
        CachedTabICL(kept.fitted)


def test_a_probe_keeps_its_context_if_asked_to():
    context, y, queries = problem(4, 2, 6)
    deployment = Deployment(Preprocessing("raw", 3), "mini", MINI)
    probes = [TabICLProbe(deployment, keeps_context=keeps) for keeps in (False, True)]
    for probe in probes:
        probe.fit(LabelledEmbeddings(context, y))
    assert [probe.fitted.model_kv_cache_ is not None for probe in probes] == [False, True]
    one, other = (probe.predict_proba(queries) for probe in probes)
    np.testing.assert_allclose(one, other, atol=1e-6)
