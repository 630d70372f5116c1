"""What things are called where people read: the names that flags and files have, in words."""

from __future__ import annotations

import re

WORDS = {
    # contexts
    "random": "random images",
    "centroid": "nearest to class mean",
    "class_mean": "class means (no images)",
    "facility_location": "facility location",
    "k_center": "k-center",
    "kmeans_medoids": "k-means medoids",
    "neighbours": "real neighbours of the synthetic",
    "swap_linear": "images swapped for ridge",
    "swap_tabicl": "images swapped for TabICL",
    "free_rows": "free rows (no images)",
    "prototypes": "learnt prototypes (no images)",
    "hard_pairs": "images nearest to another class",
    "all": "all training images",
    # probes
    "tabicl": "TabICL",
    "tabpfn": "TabPFN",
    "tabdpt": "TabDPT",
    "comb": "Comb",
    "linear": "logistic regression",
    "linear_reference": "the paper's linear probe",
    "knn": "nearest neighbours",
    "nearest_class_mean": "nearest class mean",
    "gradient_descent": "gradient descent",
    # preprocessings; the numbered ones are in `NUMBERED`
    "raw": "all columns",
    "post": "as in the post",
    # objectives, by class
    "InContext": "TabICL in the loop",
    "LinearGradientMatching": "linear gradient matching",
    "TrainedHeadGradientMatching": "gradient matching at trained heads",
    "Ridge": "ridge in the loop",
    # what identifies a run
    "backbone_weights": "weights of the backbone",
    "tabicl_checkpoint": "TabICL's checkpoint",
    "split_seed": "seed of the split",
    "classes_before": "classes of the run that is extended",
    "n_estimators": "members of the ensemble",
}
NUMBERED = {"rotated": "{} rotated columns", "pca": "{} principal components"}


def words(name: str) -> str:
    """What something is called in words; a name that stands in no dictionary, such as a plugin's, is left as it is."""
    kind, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if number and kind in NUMBERED:
        return NUMBERED[kind].format(number)
    return WORDS.get(name, name)


def words_of_objective(written: str) -> str:
    """An objective's representation, all its settings in it, as the losses that it adds up."""
    names = dict.fromkeys(re.findall(r"\b([A-Z]\w+)\(", written))
    return " + ".join(map(words, names)) if names and all(name in WORDS for name in names) else written
