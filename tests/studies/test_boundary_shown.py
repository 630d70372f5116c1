from dataclasses import replace

import numpy as np
import pytest

from synthicl.studies.boundary.show import class_colors, figures, finding, tables
from synthicl.studies.results import Results, Row

ROW = Row(
    *("boundary", "random", 0, 0, 1, "tabicl", "rotated8", "test", "", 0.5, 1, 6, 40, 0.1, 0.2, "train", "mini"),
    run={"n_estimators": 2},
    measures={"same_at_projection": 0.25},
)


def make(classes=3, ipc=2, names=None, contexts=("all", "synthetic", "random"), attended=("synthetic", "random")):
    """Results with maps of 4 x 3 points; a context's map is of its own class but for one point."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % classes
    results = Results(labels={"test": labels})
    results.arrays |= {
        "boundary/x": np.linspace(-1, 1, 4, dtype=np.float32),
        "boundary/y": np.linspace(0, 1, 3, dtype=np.float32),
        "boundary/test": random.uniform(-1, 1, (40, 2)).astype(np.float32),
        "boundary/variance": np.array([0.4, 0.2]),
        "boundary/class_names": np.frombuffer("\0".join(names or list("abcde"[:classes])).encode(), dtype=np.uint8),
    }
    for number, context in enumerate(contexts):
        row = replace(ROW, context=context, n_context=classes * ipc, accuracy=(40 - number) / 40)
        results.add(row, np.where(np.arange(40) < 40 - number, labels, -1))
        predicted = np.zeros((3, 4), dtype=np.int32)
        predicted.flat[:number] = 1
        arrays = {
            "class": predicted,
            "confidence": np.full((3, 4), 0.9, dtype=np.float32),
            "rows": random.uniform(-1, 1, (classes * ipc, 2)).astype(np.float32),
            "labels": np.repeat(np.arange(classes), ipc),
        }
        if context in attended:
            arrays["attention"] = random.dirichlet(np.ones(classes * ipc), (2, classes)).astype(np.float32)
        results.arrays |= {f"boundary/{name}/{row.key}": value for name, value in arrays.items()}
    return results


def test_agreement_on_queries_and_on_points():
    (table,) = tables(make())
    assert [line[0] for line in table.body] == ["random images", "synthetic", "all training images"]
    assert table.header[3:] == [
        *("same class as synthetic, test", "same class as all training images, test", "as on the map"),
        *("same class as synthetic, map", "same class as all training images, map"),
    ]
    random, synthetic, everything = table.body
    assert random[3].startswith("97.5 [")  # synthetic and random differ on one query of 40, and on one point of 12
    assert random[5:7] == ["25.0", "91.7"]
    assert synthetic[3] == synthetic[6] == everything[4] == everything[7] == ""
    assert synthetic[7] == everything[6] == "91.7"
    assert "% of 40 test queries" in table.title and "% of 4 x 3 points" in table.title


def test_maps_side_by_side_on_the_same_axes():
    figure = figures(make())["maps"]
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[:3] == [
        "random images\n6 rows: 95.0 % right",
        "synthetic\n6 rows: 97.5 % right",
        "all training images\n6 rows: 100.0 % right",
    ]
    drawn = [axes for axes in figure.axes if axes.images]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in drawn}) == 1
    assert [len(axes.texts) for axes in drawn] == [6, 6, 6]
    assert "A slice is not a projection" in " ".join(figure.get_suptitle().split())
    assert "25.0 % of the test queries" in " ".join(figure.get_suptitle().split())
    labels = [axes.get_xlabel() for axes in drawn]
    assert labels == ["", *["1st principal component\n(40 % of variance)"] * 2]  # of the lowest in each column
    figure.canvas.draw()


def test_colours_say_class_and_confidence():
    results = make()
    image = figures(results)["maps"].axes[0].images[0].get_array()
    colors = class_colors(3)
    strength = 0.1 + 0.6 * (0.9 - 1 / 3) / (2 / 3)
    np.testing.assert_allclose(image[0, 0], 1 - strength * (1 - colors[1]), atol=1e-6)
    np.testing.assert_allclose(image[2, 3], 1 - strength * (1 - colors[0]), atol=1e-6)


def test_attention_by_class_and_block():
    results = make()
    figure = figures(results)["attention"]
    random, synthetic, blocks, _ = figure.axes
    assert [axes.get_title("left") for axes in (random, synthetic)] == ["random images, 6 rows", "synthetic, 6 rows"]
    (row,) = results.select(context="random")
    weights = results.arrays[f"boundary/attention/{row.key}"]
    np.testing.assert_allclose(random.images[0].get_array(), 100 * weights.mean(0), rtol=1e-5)
    own = [np.mean([weights[block, c, 2 * c : 2 * c + 2].sum() for c in range(3)]) for block in range(2)]
    line = next(line for line in blocks.lines if line.get_label() == "random images")
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array(own), rtol=1e-5)
    figure.canvas.draw()


@pytest.mark.parametrize("classes", [2, 12, 30])
def test_any_number_of_classes_and_long_names(classes):
    names = [f"a class with a long name {index}" for index in range(classes)]
    results = make(classes, 5, names, contexts=("random", "centroid", "class_mean", "all"), attended=("random",))
    for figure in figures(results).values():
        figure.canvas.draw()
    assert len({tuple(color) for color in class_colors(classes)}) == classes


def test_without_attention_there_are_maps_alone():
    assert list(figures(make(attended=()))) == ["maps"]


def test_the_finding_is_about_test_and_names_the_strongest_rival():
    said = finding(make())
    assert said.startswith("TabICL with the 6 synthetic rows gives 97.5 [")
    assert "% of the test images the class that it gives with all 6 training rows: " in said
    assert "not told apart from random images (+2.5 [" in said
    assert finding(make(contexts=("random", "synthetic"))) == ""
