"""The card as the Hub and `datasets` read it: the folder is a dataset as it lies."""

import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard

from synthicl.artefact.card import HUB_LICENCES, card
from synthicl.artefact.context_set import BEST, ContextSet
from synthicl.data.datasets import DATASETS
from synthicl.tabicl.preprocessing import Preprocessing

ODD = [
    *("zebra", "English springer", "Löwe 猫", ".hidden", "__special__", "[x]*", "yes", "10", "9", "- dash: #", "'q\""),
    *(
        "test",
        "validation",
        "null",
        "---",
        "a%20b",
        "~",
        "{x}",
        "a?b",
        "metadata.csv",
        "!!python/none".replace("/", "_"),
    ),
]  # not in alphabetical order, and words that YAML, globs or `datasets` take for something else


def context_set(names, images=True, **metadata):
    n = 2 * len(names)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(names)).repeat(2)
    return ContextSet(torch.zeros(n, 5), labels, names, Preprocessing("raw", 1), pixels if images else None, metadata)


def written(folder, context):
    """Save a set with its card, another one in it as a run has, and what else lies in a run's folder."""
    context.save(folder)
    context_set(["a", "b"]).save(folder / BEST)
    for place in (folder, folder / BEST):
        (place / "README.md").write_text(card(context, ""), encoding="utf-8")
    (folder / "figures").mkdir()
    (folder / "figures" / "x.png").write_bytes((folder / "grid.png").read_bytes())
    (folder / "results.json").write_text("[]")
    return folder


@pytest.mark.filterwarnings("ignore")  # of what `datasets` imports
@pytest.mark.parametrize("names", [ODD, ["only one"]])
def test_load_dataset_gives_the_labelled_images_and_nothing_else(tmp_path, names):
    import datasets  # takes two seconds, which the other tests need not wait for

    context = context_set(names, dataset="Größe: #x\n---\nevil: 1")
    splits = datasets.load_dataset(str(written(tmp_path / "run", context)), cache_dir=str(tmp_path / "cache"))
    assert list(splits) == ["train"]
    found = splits["train"]
    assert found.features["label"].names == names
    assert len(found) == len(context.labels)
    theirs = sorted((row["label"], np.asarray(row["image"]).tobytes()) for row in found)
    ours = zip(context.labels.tolist(), context.images.permute(0, 2, 3, 1).contiguous().numpy(), strict=True)
    assert theirs == sorted((label, image.tobytes()) for label, image in ours)


def test_the_front_matter_is_what_the_hub_knows():
    context = context_set(ODD, dataset="digits\n---\nlicense: x", dataset_licence="CC BY 4.0 (UCI)")
    data = DatasetCard(card(context, "")).data
    assert data.license == "cc-by-4.0"
    assert data.pretty_name == "Synthetic context set for digits\\n---\\nlicense: x"
    assert data.task_categories == ["image-classification"]
    assert data.size_categories == ["n<1K"]
    assert {"synthicl", "dataset-distillation", "tabicl"} <= set(data.tags)
    (config,) = data.configs
    assert config["data_files"] == [{"split": "train", "path": ["images/**", "images/.*/*", "images/__*/*"]}]
    names = config["features"][1]["dtype"]["class_label"]["names"]
    assert names == {str(index): name for index, name in enumerate(ODD)}
    plain = DatasetCard(card(context_set(["a", "b"]), "")).data.configs[0]
    assert plain["data_files"] == [{"split": "train", "path": "images/**"}]


@pytest.mark.parametrize(
    ("said", "licence", "name"),
    [
        ("MIT", "mit", None),
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0", None),
        ("Apache-2.0 (Google)", "apache-2.0", None),
        ("the images' own", "other", "the-images-own"),
        ("研究", "other", "of-the-dataset"),
        (None, "unknown", None),
    ],
)
def test_the_licence_is_what_the_dataset_says(said, licence, name):
    context = context_set(["a", "b"], **({} if said is None else {"dataset_licence": said}))
    data = DatasetCard(card(context, "")).data.to_dict()
    assert (data["license"], data.get("license_name")) == (licence, name)


def test_every_dataset_of_the_project_but_ones_own_has_a_licence_or_says_so():
    named = {}
    for name in DATASETS.names():
        context = context_set(["a", "b"], dataset_licence=DATASETS.get(name).licence)
        named[name] = DatasetCard(card(context, "")).data.license
    assert named["digits"] == "cc-by-4.0" and named["groceries"] == "mit" and named["folder"] == "other"
    assert set(named.values()) <= HUB_LICENCES | {"other"}


@pytest.mark.parametrize(("n", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K")])
def test_sizes(n, size):
    context = ContextSet(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), ["a"], Preprocessing("raw", 1))
    data = DatasetCard(card(context, "")).data
    assert data.size_categories == [size]
    assert "configs" not in data.to_dict()  # there are no images


def test_what_it_tells_about_single_images_is_measured_or_said_to_be_unknown():
    context = context_set(["a", "b"])
    assert "was not measured. `synthicl privacy` on the run does." in card(context, "")
    text = card(context, "", "An AUROC of 0.505 [0.474, 0.536].")
    assert "\n\nAn AUROC of 0.505 \\[0.474, 0.536\\].\n\n" in text and "not measured" not in text


def test_what_it_extends_is_said_of_an_extended_set_alone():
    assert "extends" not in card(context_set(["a", "b"]), "")
    text = card(context_set(["a", "b"], extends="0123abcd", frozen=2), "")
    assert "| extends | the context set 0123abcd, whose 2 images are as they were |" in text
