"""`digits`: scikit-learn's 1,797 real handwritten digits, the dataset that needs no download.

8 x 8 grey images (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998), enlarged to
32 x 32, stratified 50 / 20 / 30 into train, val and test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from synthicl.data.datasets import DatasetSpec, ImageDataset, Pad
from synthicl.data.images import LabelledImages
from synthicl.data.splits import stratified_split

SIZE = 32


def load(root: Path, split_seed: int = 0) -> ImageDataset:
    """Split the digits; ``root`` plays no part, the images come with scikit-learn."""
    # Takes a second: names are checked before that, images are read after.
    from sklearn.datasets import load_digits

    if split_seed != 0:
        print(
            "Note: the bundled backbones were trained on the training digits of --data.split_seed=0, so they have seen "
            f"some of val and test with {split_seed}.",
            flush=True,
        )
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in grey]
    everything = LabelledImages(images, digits.target.astype(np.int64))
    parts = stratified_split(everything.labels, {"val": 0.2, "test": 0.3}, split_seed)
    return ImageDataset(
        {name: everything.take(indices) for name, indices in parts.items()}, [str(digit) for digit in range(10)]
    )


# Each of the 8 x 8 pixels is how many of 4 x 4 were ink; strokes are one to two of the 8 wide.
PAD = Pad("black", brush=0.18, pixels=8)
REGISTERED = {"digits": DatasetSpec(lambda root: [], load, "CC BY 4.0 (UCI Machine Learning Repository)", PAD)}
