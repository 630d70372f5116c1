"""Learners of other packages: the real packages, on checkpoints in their own formats that are made here.

Comb has TabICL's network, so it is given the weights of our bundled TabICL and has to say the same. TabDPT is given
weights that make it a kernel classifier, whose probabilities are written out. TabPFN is given random ones.
"""

import dataclasses
import inspect
import json
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from torch.nn.functional import gelu

from synthicl.cli.main import main
from synthicl.core.errors import UserError
from synthicl.core.words import words
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import learner, probe_factory, supplied
from synthicl.probes.probe import ProbeSetting
from synthicl.probes.supplied import PACKAGES, variable_of
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.results import Results
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

ROOT = Path(__file__).parents[2]
Y = torch.tensor([2, 5, 7]).repeat(4)
TRUTH = torch.tensor([5, 2, 7]).repeat(7)
CENTRES = 6 * torch.eye(8)


def near(y, noise=1.0, seed=0):
    return CENTRES[y] + noise * torch.randn(len(y), 8, generator=torch.Generator().manual_seed(seed))


Z, QUERIES = near(Y), near(TRUTH, seed=1)
CONTEXT = LabelledEmbeddings(Z, Y)


def setting(preprocessing="pca3", members=4, seed=6, z=Z):
    return ProbeSetting(Deployment(fit_preprocessing(preprocessing, z, members), "mini", MINI), seed=seed)


def write_comb(path):
    """The bundled TabICL as a checkpoint of Comb's; ``*.safetensors`` has its configuration beside it.

    They differ in how attention grows with the number of rows n. TabICL multiplies queries by s log n; Comb by
    f(log n), where f is a network of one hidden layer of GELUs: f(x) = s gelu(x) - s gelu(-x) = s x.
    """
    model = pytest.importorskip("comb.model", reason="needs the package tabcomb")
    content = torch.load(MINI, weights_only=True)
    config = {
        key: content["config"][key] for key in inspect.signature(model.TabICL).parameters if key in content["config"]
    }
    weights = {}
    for key, value in model.TabICL(**config).state_dict().items():
        block, _, rest = key.partition("base_mlp.")
        if key in content["state_dict"]:
            weights[key] = content["state_dict"][key]
        elif "col_embedder" in key:
            weights[key] = torch.full_like(value, rest == "2.bias")  # our columns do without: f = 1
        else:
            weights[key] = torch.zeros_like(value)
            if rest == "0.weight":
                weights[key][:2, 0] = torch.tensor([1.0, -1.0])
            if rest == "2.weight":
                scales = content["state_dict"][f"{block}scales"]
                scales = scales.repeat_interleave(len(value) // len(scales))
                weights[key][:, :2] = torch.stack([scales, -scales], 1)
    if path.suffix == ".safetensors":
        save_file(weights, path)
        (path.parent / "config.json").write_text(json.dumps(config))
    else:
        torch.save({"config": config, "state_dict": weights}, path)


FEATURES, CLASSES, SHARPNESS, GAIN = 12, 10, 3.0, 10.0


def write_tabdpt(path):
    """Weights that make TabDPT a kernel classifier, see `kernel_classifier`."""
    model = pytest.importorskip("tabdpt.model", reason="needs the package tabdpt")
    size = 2 * FEATURES + CLASSES  # x, -x, and the class: what a layer norm leaves at mean 0
    shape = {"enc_cell_dim": 1, "nhead": 1, "nlayers": 1, "y_encoder_dim": CLASSES}
    shape |= {"regression_bin_count": 3, "regression_bin_min": -1.0, "regression_bin_max": 1.0}
    net = model.TabDPTModel(
        **shape, dropout=0, n_out=CLASSES, nhid=CLASSES, ninp=size, num_features=FEATURES, base_len=1, max_len=1
    )
    called = {"max_num_classes": CLASSES, "ff_dim": CLASSES, "emsize": size, "max_num_features": FEATURES}
    called |= {"min_eval_context": 1, "max_eval_context": 1, "num_col_attn_layers": 0, "n_thinking_rows": 0}
    cfg = {"model": shape | called, "training": {"dropout": 0}, "env": {}}
    eye, weights = torch.eye(size), {key: torch.zeros_like(value) for key, value in net.state_dict().items()}
    x, y = slice(0, 2 * FEATURES), slice(2 * FEATURES, size)
    block = "transformer_encoder.0"
    weights["encoder.weight"][x] = torch.cat([torch.eye(FEATURES), -torch.eye(FEATURES)])
    weights["cls_y_encoders.0.weight"] = torch.eye(CLASSES)
    for part in ("q_proj", "k_proj"):
        weights[f"{block}.{part}.weight"][x] = eye[x]
    weights[f"{block}.q_norm.weight"] += SHARPNESS
    weights[f"{block}.k_norm.weight"] += 1
    weights[f"{block}.attn_norm.weight"] += 1
    weights[f"{block}.v_proj.weight"][y, size:] = torch.eye(CLASSES)
    weights[f"{block}.out_proj.weight"][y] = 2 * eye[y]  # its gate is half open
    weights["head.0.weight"][:, y] = GAIN * torch.eye(CLASSES)
    weights["head.2.weight"][:CLASSES] = torch.eye(CLASSES)
    for key in ("n0", "max_len_f"):
        weights[f"{block}.{key}"] += 1
    save_file(weights, path, {"cfg": json.dumps(cfg)})


def kernel_classifier(rows, y, queries):
    """Probabilities (q, C): shares of attention that goes by the cosine between standardised rows."""
    mean, deviation = rows.mean(0), rows.std(0)
    rows, queries = ((part - mean) / deviation for part in (rows, queries))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, queries)]
    shares = softmax(SHARPNESS * np.sqrt(2 * FEATURES + CLASSES) * unit[1] @ unit[0].T, 1) @ np.eye(y.max() + 1)[y]
    return softmax(gelu(torch.from_numpy(GAIN * shares)).numpy(), 1)


def write_tabpfn(path):
    """Random weights of TabPFN 2, or of 3.5 for ``*.safetensors``, at a small size."""
    pytest.importorskip("tabpfn", reason="needs the package tabpfn")
    from tabpfn.architectures import tabpfn_v2, tabpfn_v3_5
    from tabpfn.checkpoint import save_as_safetensors

    if path.suffix == ".safetensors":
        module, name = tabpfn_v3_5, "tabpfn_v3_5"
        config = tabpfn_v3_5.TabPFNV3p5Config(
            max_num_classes=10,
            num_buckets=4,
            embed_dim=16,
            dist_embed_num_blocks=1,
            dist_embed_num_heads=2,
            dist_embed_num_inducing_points=4,
            feat_agg_num_blocks=1,
            feat_agg_num_heads=2,
            feat_agg_num_cls_tokens=2,
            nlayers=2,
            icl_num_heads=2,
            decoder_head_dim=8,
            decoder_num_heads=2,
        )
    else:
        module, name = tabpfn_v2, "tabpfn_v2"
        config = tabpfn_v2.TabPFNV2Config(max_num_classes=10, num_buckets=0, emsize=16, nlayers=2, nhead=2)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = module.get_architecture(config)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # some begin at zero
    content = {"state_dict": network.state_dict(), "config": dataclasses.asdict(config), "architecture_name": name}
    save_as_safetensors(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


WRITE = {
    "comb": ("model.safetensors", write_comb),
    "comb in one file": ("comb.ckpt", write_comb),
    "tabdpt": ("tabdpt.safetensors", write_tabdpt),
    "tabpfn": ("tabpfn.ckpt", write_tabpfn),
    "tabpfn 3.5": ("tabpfn.safetensors", write_tabpfn),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function that makes a checkpoint once."""
    folder = tmp_path_factory.mktemp("learners")

    def make(kind):
        name, write = WRITE[kind]
        if not (folder / name).exists():
            write(folder / name)
        return folder / name

    return make


@pytest.fixture
def learner_of(checkpoint, monkeypatch):
    """A function that makes a probe with its checkpoint."""

    def make(kind, chosen=None):
        name = kind.split()[0]
        monkeypatch.setenv(variable_of(name), str(checkpoint(kind)))
        return probe_factory(name)(chosen or setting())

    return make


each = pytest.mark.parametrize("kind", WRITE)


def by_hand(kind, path, rows, y, queries, members, seed):
    """What the package itself says."""
    if kind.startswith("comb"):
        made = sys.modules["comb"].CombClassifier(
            checkpoint=path, n_estimators=members, device="cpu", random_state=seed
        )
        return made.fit(rows, y).predict_proba(queries)
    if kind == "tabdpt":
        made = sys.modules["tabdpt"].TabDPTClassifier(device="cpu", model_weight_path=str(path), verbose=False)
        made.fit(rows, np.unique(y, return_inverse=True)[1])
        return made.ensemble_predict_proba(queries, members, seed=seed)
    made = sys.modules["tabpfn"].TabPFNClassifier(
        n_estimators=members, model_path=path, device="cpu", random_state=seed, inference_precision=torch.float32
    )
    return made.fit(rows, y).predict_proba(queries)


@each
@pytest.mark.parametrize("members", [1, 4])
def test_it_is_the_packages_classifier_on_the_columns_of_the_preprocessing(learner_of, checkpoint, kind, members):
    chosen = setting(members=members)
    probe = learner_of(kind, chosen)
    columns = chosen.deployment.preprocessing
    assert (probe.name, probe.preprocessing, probe.needs_images) == (kind.split()[0], columns, False)
    probe.fit(CONTEXT)
    theirs = by_hand(kind, checkpoint(kind), columns(Z).numpy(), Y.numpy(), columns(QUERIES).numpy(), members, 6)
    np.testing.assert_allclose(probe.predict_proba(QUERIES), theirs, atol=1e-6)


@each
def test_columns_follow_the_sorted_labels(learner_of, kind):
    probe, plain = learner_of(kind), learner_of(kind)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    probe.fit(LabelledEmbeddings(Z[order], Y[order]))
    plain.fit(LabelledEmbeddings(Z[order], torch.unique(Y, return_inverse=True)[1][order]))  # 0, 1, 2
    said = probe.predict_proba(QUERIES)
    assert said.shape == (21, 3)
    np.testing.assert_allclose(said.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(said, plain.predict_proba(QUERIES))


@each
@pytest.mark.parametrize("chunk", [1, 8])
def test_a_query_is_answered_alone(learner_of, monkeypatch, kind, chunk):
    probe = learner_of(kind)
    probe.fit(CONTEXT)
    whole = probe.predict_proba(QUERIES)
    assert np.abs(whole - whole[0]).max() > 1e-3
    np.testing.assert_allclose(probe.predict_proba(QUERIES.flip(0)), whole[::-1], atol=1e-5)
    monkeypatch.setattr(learner, "QUERY_CHUNK", chunk)
    np.testing.assert_allclose(probe.predict_proba(QUERIES), whole, atol=1e-5)


@each
def test_fitting_again_forgets_and_repeats(learner_of, kind):
    probe = learner_of(kind)
    probe.fit(CONTEXT)
    first = probe.predict_proba(QUERIES)
    probe.fit(LabelledEmbeddings(-Z[:10], Y[:10].flip(0)))
    assert not np.array_equal(probe.predict_proba(QUERIES), first)
    probe.fit(CONTEXT)
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), first)


@pytest.mark.parametrize("kind", ["comb", "tabdpt"])
def test_distant_classes_are_told_by_weights_that_can(learner_of, kind):
    probe = learner_of(kind)
    probe.fit(CONTEXT)
    np.testing.assert_array_equal(np.array([2, 5, 7])[probe.predict_proba(QUERIES).argmax(1)], TRUTH)


@pytest.mark.parametrize("members", [1, 4, 8])
@pytest.mark.parametrize("classes", [3, 12])  # more than 10 are told apart in a hierarchy
def test_comb_says_what_tabicl_says_with_the_same_weights(learner_of, members, classes):
    y = torch.arange(4 * classes) % classes
    context = LabelledEmbeddings(torch.randn(len(y), 6, generator=torch.Generator().manual_seed(2)), y)
    chosen = setting("raw", members, seed=3, z=context.z)
    # Under the name of a published checkpoint, which goes tabicl's own way through many classes, as Comb does.
    comb, tabicl = learner_of("comb", chosen), TabICLProbe(replace(chosen.deployment, checkpoint="v2"), random_state=3)
    for probe in (comb, tabicl):
        probe.fit(context)
    queries = torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(comb.predict_proba(queries), tabicl.predict_proba(queries), atol=1e-5)


@pytest.mark.parametrize("members", [1, 3])
def test_tabdpt_says_what_its_weights_say(learner_of, members):
    probe = learner_of("tabdpt", setting("raw", members))
    probe.fit(CONTEXT)
    expected = kernel_classifier(Z.numpy(), np.unique(Y, return_inverse=True)[1], QUERIES.numpy())
    np.testing.assert_allclose(probe.predict_proba(QUERIES), expected, atol=1e-5)


def test_tabdpt_tells_more_classes_than_its_head_has_outputs(learner_of):
    rows = 5 * torch.eye(FEATURES)
    probe = learner_of("tabdpt", setting("raw", z=rows))
    probe.fit(LabelledEmbeddings(rows, 3 * torch.arange(FEATURES)))
    np.testing.assert_array_equal(probe.predict_proba(rows).argmax(1), np.arange(FEATURES))


def test_tabdpt_reduces_more_columns_than_it_takes_and_draws_from_nobody(learner_of):
    rows = torch.randn(30, FEATURES + 20, generator=torch.Generator().manual_seed(4))
    probe = learner_of("tabdpt", setting("raw", z=rows))
    said = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        probe.fit(LabelledEmbeddings(rows, torch.arange(30) % 3))
        said.append(probe.predict_proba(rows))
        assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(*said)


@pytest.mark.parametrize("kind", ["comb", "tabdpt", "tabpfn"])
def test_compare_scores_it_and_shows_it(checkpoint, monkeypatch, tmp_path, kind):
    monkeypatch.setenv(variable_of(kind), str(checkpoint(kind)))
    flags = ["--contexts=class_mean", "--tabicl.preprocessing=rotated4", "--tabicl.n_estimators=2", "--splits=val"]
    assert main(["compare", "digits", f"--probes=linear,{kind}", *flags, f"--output={tmp_path}"]) == 0
    rows = {row.probe: row for row in Results.load(tmp_path).rows.values()}
    assert set(rows) == {"linear", kind}
    assert rows[kind].preprocessing == "rotated4"
    assert rows[kind].accuracy > 0.6 or kind == "tabpfn"  # whose weights are random
    assert words(kind) in (tmp_path / "report.html").read_text()


def test_tabpfn_reports_nothing_to_anyone(learner_of, monkeypatch):
    monkeypatch.delenv("TABPFN_DISABLE_TELEMETRY", raising=False)
    learner_of("tabpfn")
    assert os.environ["TABPFN_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    ("kind", "z", "y", "said"),
    [
        ("tabpfn", Z, torch.arange(12), r"Number of classes `12` exceeds the max.*"),
        ("tabpfn", torch.randn(1001, 3), torch.arange(1001) % 3, r"RuntimeError: .*more than 1000 samples.*"),
        ("tabdpt", Z, torch.zeros(12, dtype=torch.long), r"AssertionError: Number of classes must be greater than 1"),
        ("comb", torch.full_like(Z, torch.inf), Y, r"ValueError: Input X contains infinity.*"),
    ],
)
def test_message_for_a_context_that_it_refuses(learner_of, kind, z, y, said):
    probe = learner_of(kind, setting("raw"))
    with pytest.raises(UserError, match=rf"^--probes={kind}: .*{said}$"):
        probe.fit(LabelledEmbeddings(z, y))


def test_a_full_memory_is_left_to_its_own_message(learner_of, monkeypatch):
    probe = learner_of("comb")
    monkeypatch.setattr(probe.classifier, "fit", lambda rows, y: torch.empty(2**60))
    with pytest.raises(UserError, match=r"--probes=comb: RuntimeError: .*allocate memory"):
        probe.fit(CONTEXT)

    def full(rows, y):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(probe.classifier, "fit", full)
    with pytest.raises(torch.OutOfMemoryError):
        probe.fit(CONTEXT)


class Runs:
    """What a pickle can ask for."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_file_that_asks_for_code_to_be_run_is_refused(monkeypatch, tmp_path, name):
    pytest.importorskip(name)
    torch.save({"config": Runs(tmp_path / "ran"), "state_dict": {}}, tmp_path / "evil.ckpt")
    monkeypatch.setenv(variable_of(name), str(tmp_path / "evil.ckpt"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which TabPFN alone would follow
    with pytest.raises(
        UserError, match=rf"^--probes={name}: {variable_of(name)}=.*evil\.ckpt: is not a torch file of .*run\.$"
    ):
        probe_factory(name)(setting())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("file", ["empty.ckpt", "empty.safetensors", "other.ckpt", "other.safetensors"])
def test_weights_of_something_else_are_refused_at_once(monkeypatch, tmp_path, name, file):
    pytest.importorskip(name)
    path = tmp_path / file
    if file == "other.ckpt":
        torch.save({"state_dict": {"weight": torch.zeros(2)}, "config": {}}, path)
    elif file == "other.safetensors":
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.touch()
    monkeypatch.setenv(variable_of(name), str(path))
    with pytest.raises(
        UserError, match=rf"^--probes={name}: {variable_of(name)}={path}: (cannot be used: |is not )[^\n]*$"
    ):
        probe_factory(name)(setting())


@pytest.mark.parametrize("name", PACKAGES)
def test_message_where_the_package_is_not_installed(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # what makes an import fail
    said = rf"^--probes={name}: the package (tab\w+) is not installed\. Install it with: pip install \1$"
    with pytest.raises(UserError, match=said):
        probe_factory(name)(setting())


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(
    ("path", "found"),
    [(None, "it is not set"), ("", "it is not set"), ("gone", "gone: is .*"), (".", ".: is a folder")],
)
def test_message_without_a_checkpoint(monkeypatch, name, path, found):
    monkeypatch.setattr(supplied, "find_spec", lambda name: name)  # as if it were installed
    if path is None:
        monkeypatch.delenv(variable_of(name), raising=False)
    else:
        monkeypatch.setenv(variable_of(name), path)
    with pytest.raises(UserError, match=rf"^--probes={name}: SYNTHICL_{name.upper()}_MODEL: {found}\. Set it to the"):
        probe_factory(name)(setting())


def test_each_is_an_extra_of_the_project_by_its_name():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, package in PACKAGES.items():
        assert [requirement.startswith(f"{package}>=") for requirement in extras[name]] == [True]
