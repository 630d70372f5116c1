"""What all tests share: a cache of their own, one thread, no network beyond 127.0.0.1, and tiny image folders."""

from __future__ import annotations

import os
import tempfile

# Read when the first property test begins; what it keeps between runs stays out of the checkout.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/hypothesis")
os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when it is imported
# What hypothesis remembers of our sources; it would lie in the working tree.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "synthicl-hypothesis"))  # noqa: PTH118

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests away from the user's caches, from proxies, and from each other's cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    """A function that writes an image of one's own mode, format and size; its pixels are a function of ``seed``."""

    def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 10), seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    return write


@pytest.fixture
def image_folder(tmp_path: Path, write_image: Callable[..., Path]) -> MakeFolder:
    """A function that writes an image folder, for example ``{"train/cat": 3, "test/cat": 1}``, and returns its root."""

    def make(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "my images"
        root.mkdir(exist_ok=True)
        for number, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True)
            for index in range(count):
                write_image(root / name / f"{index}.png", seed=100 * number + index)
        return root

    return make
