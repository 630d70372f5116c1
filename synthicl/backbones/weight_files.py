"""Weights files that users supply: read without running code in them, and compared with what a network expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthicl.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FLAG = "--backbone.weights"


def read_tensors(path: Path, advice: str) -> dict[str, Tensor]:
    """The tensors of a weights file; its format is told from its first bytes, and no code in it is run.

    Args:
        path: a PyTorch file (new or old format) or a safetensors file.
        advice: the sentence that ends a message: which file to give.

    Raises:
        UserError: the file cannot be read, is damaged, or holds anything but a table of tensors.
    """
    # Names are checked before torch is loaded, weights are read after.
    import torch
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise misfit(path, f"cannot be read ({error.strerror})", advice) from error
    is_safetensors = head[8:] == b"{"  # eight bytes of length, then JSON
    if not is_safetensors and head[:2] not in {b"PK", b"\x80\x02"}:  # zip archive; PyTorch's pickle before 1.6
        raise misfit(path, f"neither PyTorch nor safetensors weights (begins with {head!r})", advice)
    try:
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything, AssertionError and IndexError included
        foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if foreign:
            raise misfit(
                path, f"refused: holds the Python object {foreign[1]}, which could run code", advice
            ) from error
        raise misfit(path, f"damaged or cut short ({type(error).__name__})", advice) from error
    plain = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    )
    if not plain:
        found = first_names(state) if isinstance(state, dict) else type(state).__name__
        raise misfit(path, f"not a plain table of tensors (found {found})", advice)
    return state


def misfit(path: Path, found: str, advice: str) -> UserError:
    """The error for a file that holds something else: flag, path, what was found, what to do."""
    return UserError(f"{FLAG}={path}: {found}. {advice}")


def first_names(table: Mapping[Any, object]) -> str:
    """What a table holds, for a message: its first three names."""
    return ", ".join(map(str, list(table)[:3])) or "nothing"


def first_difference(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first tensor that is missing, has another shape or kind of number, or no place, in words; else empty."""
    for name, tensor in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != tensor.shape:
            return f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        if state[name].is_floating_point() != tensor.is_floating_point():
            return f"{name} is of type {state[name].dtype}, not {tensor.dtype}"
    return next((f"{name} has no place" for name in state if name not in expected), "")
