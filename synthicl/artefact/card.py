"""The card: the README.md of a context set, which also makes its folder a dataset of the Hugging Face Hub.

The front matter says to ``datasets`` which of the files in the folder are the dataset, and which label is which class
(https://huggingface.co/docs/hub/datasets-manual-configuration): ``load_dataset`` on the folder gives the labelled
synthetic images in one split ``train``, and nothing else, with the class indices of the context set. A class whose
name holds ``::``, which ``datasets`` takes for a place within an archive, is lost there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from huggingface_hub import DatasetCardData

from synthicl.artefact.context_set import ContextSet
from synthicl.core.text import plain_markdown, printable
from synthicl.core.words import words_of_objective

_TEMPLATE = """\
---
{front_matter}
---

# Context set for {dataset}

{n} synthetic images, {ipc} per class, distilled with synthicl. Their embeddings, given to TabICL as its context,
classify images of {dataset}.

![all images, one class after the other](grid.png)

| | |
| --- | --- |
{facts}

{scores}
## What it carries

`context.safetensors` holds the images ({shape}, 8 bit), their labels and embeddings ({d} numbers each), and class
names in its metadata.{soft} {statistics}{calibration}

{privacy}

## Use

```python
from synthicl import ContextSet

context = ContextSet.load("path/to/this/folder")
context.images, context.labels, context.embeddings, context.class_names
```

`datasets.load_dataset("path/to/this/folder")` gives the images with their labels. On the Hugging Face Hub the id of the
dataset takes the place of the folder, in both. `images/` is also valid for `torchvision.datasets.ImageFolder`.

## Licences

Dataset: {dataset_licence}. Backbone weights: {backbone_licence}. The images were optimised from noise; no image of the
dataset was copied, but they are derived from it.
"""

_UNMEASURED = "What the set tells about single training images was not measured. `synthicl privacy` on the run does."
_SOFT = " Soft labels were learnt with the images (`soft_labels`); TabICL sees classes."


# Those of https://huggingface.co/docs/hub/repositories-licenses that datasets of images have.
HUB_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "pddl", "odbl", "odc-by", "unlicense"),
    *(f"cc-by{kind}-{version}" for kind in ("", "-sa", "-nc", "-nc-sa", "-nd", "-nc-nd") for version in ("3.0", "4.0")),
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_HIDDEN = {".": "images/.*/*", "__": "images/__*/*"}  # what `datasets` passes over unless it is asked for


def front_matter(context: ContextSet) -> str:
    """What the Hugging Face Hub and ``datasets`` read of the card, as YAML without the lines around it.

    The licence is the dataset's own, as its images are derived from it: an identifier of the Hub's where the dataset
    names one, otherwise ``other`` with what the dataset says as its name.
    """
    about, n = context.metadata, len(context.labels)
    said = printable(about.get("dataset_licence", ""))
    named = re.sub(r"[ -]+", "-", said.partition("(")[0].strip().lower())
    licence = named if named in HUB_LICENCES else "other" if said else "unknown"
    name = re.sub(r"[^a-z0-9]+", "-", said.lower())[:80].strip("-") or "of-the-dataset"
    found: dict[str, Any] | None = None
    if context.images is not None:
        names = [context.class_names[label] for label in context.labels.unique().tolist()]
        extra = [path for start, path in _HIDDEN.items() if any(name.startswith(start) for name in names)]
        labels = {"class_label": {"names": {str(label): name for label, name in enumerate(context.class_names)}}}
        features = [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": labels}]
        found = {
            "config_name": "default",
            "data_files": [{"split": "train", "path": ["images/**", *extra] if extra else "images/**"}],
            "drop_labels": False,  # also where there is one class
            "features": features,  # otherwise a class's index would be its place in the alphabet
        }
    data = DatasetCardData(
        pretty_name=f"Synthetic context set for {printable(about.get('dataset', 'images'))}",
        task_categories=["image-classification"],
        size_categories=[next((words for most, words in _SIZES if n < most), "n>1M")],
        tags=["synthicl", "dataset-distillation", "tabicl", "synthetic"],
        license=licence,
        license_name=name if licence == "other" else None,
        configs=None if found is None else [found],
    )
    return str(data.to_yaml())


def card(context: ContextSet, scores: str, privacy: str = "") -> str:
    """Write the card in Markdown: what the set is, how good it is, what it carries, how to load it.

    Names came with the data: they are shown as they stand, and are never Markdown themselves.

    Args:
        context: the set.
        scores: how good it is, sections in Markdown.
        privacy: what it tells about single training images, a sentence; empty where that was not measured.
    """
    about: defaultdict[str, Any] = defaultdict(lambda: "not said", context.metadata)
    checkpoint = about["checkpoint"] + (" (chosen on val)" if about["checkpoint"] == "best_on_val" else "")
    versions = ", ".join(f"{name} {number}" for name, number in context.metadata.get("versions", {}).items())
    extends = {}
    if "extends" in context.metadata:  # not `about`, in which a look makes an entry
        extends["extends"] = f"the context set {about['extends']}, whose {about['frozen']} images are as they were"
    facts = {
        "dataset": about["dataset"] + (f", split seed {seed}" if (seed := about.get("split_seed")) else ""),
        "classes": ", ".join(context.class_names[:20]) + (", ..." if len(context.class_names) > 20 else ""),
        "backbone": f"{about['backbone']} (weights {about['backbone_weights']}), {about['crop_size']} px",
        "objective": f"{words_of_objective(about['objective'])}, real side {about['real']}, {about['steps']} steps, "
        f"seed {about['seed']}",
        **extends,
        "state": checkpoint,
        "TabICL": f"checkpoint {about['tabicl_checkpoint']}, preprocessing {context.preprocessing.name}, "
        f"{context.preprocessing.n_estimators} members",
        "versions": versions,
    }
    numbers = context.preprocessing.numbers
    statistics = (
        f"Its preprocessing also carries {numbers:,} numbers fitted on the training embeddings (mean and projection)."
        if numbers
        else "Its preprocessing carries no statistics of the training data."
    )
    calibration, kept = "", context.calibration
    if kept:
        nothing = "" if kept.is_fitted else " (there is no error on val, so that nothing could be calibrated)"
        calibration = (
            f" It keeps {2 * kept.images + 1:,} numbers about {kept.images:,} val images: the temperature of TabICL's "
            f"probabilities, {kept.temperature:.2f}{nothing}, and of each image how little its class was expected and "
            f"how unlike the training images it is. {kept.novelty.numbers:,} numbers fitted on the training embeddings "
            "say what they are like (mean and principal directions)."
        )
    return _TEMPLATE.format(
        front_matter=front_matter(context),
        privacy=plain_markdown(privacy) if privacy else _UNMEASURED,
        n=len(context.labels),
        ipc=plain_markdown(about["ipc"]),
        facts="\n".join(f"| {name} | {plain_markdown(value)} |" for name, value in facts.items()),
        scores=scores,
        shape="none" if context.images is None else " x ".join(map(str, context.images.shape)),
        soft="" if context.soft_labels is None else _SOFT,
        d=context.embeddings.shape[1],
        statistics=statistics,
        calibration=calibration,
        dataset=plain_markdown(about["dataset"]),
        dataset_licence=plain_markdown(about["dataset_licence"]),
        backbone_licence=plain_markdown(about["backbone_licence"]),
    )
