"""The card: the README.md of a context set."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from synthicl.artefact.context_set import ContextSet
from synthicl.core.text import plain_markdown

_TEMPLATE = """\
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
names in its metadata.{soft} {statistics}

## Use

```python
from synthicl import ContextSet

context = ContextSet.load("path/to/this/folder")
context.images, context.labels, context.embeddings, context.class_names
```

`images/` is valid for `torchvision.datasets.ImageFolder` and `datasets.load_dataset("imagefolder", data_dir="images")`.

## Licences

Dataset: {dataset_licence}. Backbone weights: {backbone_licence}. The images were optimised from noise; no image of the
dataset was copied, but they are derived from it.
"""

_SOFT = " Soft labels were learnt with the images (`soft_labels`); TabICL sees classes."


def card(context: ContextSet, scores: str) -> str:
    """Write the card in Markdown: what the set is, how good it is, what it carries, how to load it.

    Names came with the data: they are shown as they stand, and are never Markdown themselves.

    Args:
        context: the set.
        scores: how good it is, sections in Markdown.
    """
    about: defaultdict[str, Any] = defaultdict(lambda: "not said", context.metadata)
    checkpoint = about["checkpoint"] + (" (chosen on val)" if about["checkpoint"] == "best_on_val" else "")
    versions = ", ".join(f"{name} {number}" for name, number in context.metadata.get("versions", {}).items())
    facts = {
        "dataset": about["dataset"] + (f", split seed {seed}" if (seed := about.get("split_seed")) else ""),
        "classes": ", ".join(context.class_names[:20]) + (", ..." if len(context.class_names) > 20 else ""),
        "backbone": f"{about['backbone']} (weights {about['backbone_weights']}), {about['crop_size']} px",
        "objective": f"{about['objective']}, real side {about['real']}, {about['steps']} steps, seed {about['seed']}",
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
    return _TEMPLATE.format(
        n=len(context.labels),
        ipc=plain_markdown(about["ipc"]),
        facts="\n".join(f"| {name} | {plain_markdown(value)} |" for name, value in facts.items()),
        scores=scores,
        shape="none" if context.images is None else " x ".join(map(str, context.images.shape)),
        soft="" if context.soft_labels is None else _SOFT,
        d=context.embeddings.shape[1],
        statistics=statistics,
        dataset=plain_markdown(about["dataset"]),
        dataset_licence=plain_markdown(about["dataset_licence"]),
        backbone_licence=plain_markdown(about["backbone_licence"]),
    )
