"""The tensors of a context set: which there are, of what type and shape, and what must be true of their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from synthicl.core.context_header import MisfitError
from synthicl.probes.calibration import MAX_TEMPERATURE
from synthicl.tabicl.preprocessing import columns_of


class Field(NamedTuple):
    """A tensor.

    Attributes:
        dtype: its type; numbers of floating point are finite.
        shape: its dimensions by name. One name has one size in all tensors.
        needed: whether every set has it; those of a preprocessing are needed where it reduces columns.
    """

    dtype: torch.dtype
    shape: tuple[str, ...]
    needed: bool = False


TENSORS: Mapping[str, Field] = {
    "embeddings": Field(torch.float32, ("n", "D"), needed=True),
    "labels": Field(torch.int64, ("n",), needed=True),
    "images": Field(torch.uint8, ("n", "3", "S", "S")),
    "soft_labels": Field(torch.float32, ("n", "C")),
    "preprocessing.mean": Field(torch.float32, ("D",)),
    "preprocessing.projection": Field(torch.float32, ("D", "k")),
    "calibration.temperature": Field(torch.float32, ("1",)),
    "calibration.nonconformity": Field(torch.float32, ("v",)),
    "calibration.novelties": Field(torch.float32, ("v",)),
    "novelty.mean": Field(torch.float32, ("D",)),
    "novelty.directions": Field(torch.float32, ("D", "m")),
}
CALIBRATION = {name for name in TENSORS if name.startswith(("calibration.", "novelty."))}  # all of them or none
STATISTICS = {name for name in TENSORS if name.startswith("preprocessing.")}
SUM_ERROR = 1e-2  # of soft labels, which may come from half precision


def check_tensors(class_names: Sequence[str], preprocessing: str, tensors: Mapping[str, Tensor]) -> None:
    """Check the tensors of a context set against `TENSORS`, and that they belong together.

    Args:
        class_names: C names.
        preprocessing: its name.
        tensors: by name.

    Raises:
        MisfitError: one is missing, has no place, or is not what it must be.
        UserError: the preprocessing is unknown.
    """
    columns = columns_of(preprocessing)
    needed = {name for name, field in TENSORS.items() if field.needed} | (STATISTICS if columns else set())
    without = set() if columns else STATISTICS
    if absent := sorted(needed - set(tensors)):
        why = f", which {preprocessing} needs" if absent[0] in STATISTICS else ""
        raise MisfitError(f"{absent[0]} is missing{why}")
    if strange := sorted(set(tensors) - (set(TENSORS) - without)):
        raise MisfitError(f"{strange[0][:60]} has no place in it")
    calibration = CALIBRATION & set(tensors)
    if calibration and (absent := sorted(CALIBRATION - calibration)):
        raise MisfitError(f"{absent[0]} is missing, which belongs to {min(calibration)}")
    sizes = {"1": 1, "3": 3, "C": len(class_names)} | ({"k": columns} if columns else {})
    for name, field in TENSORS.items():
        if name in tensors:
            _check_field(name, tensors[name], field, sizes)
    labels = tensors["labels"]
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise MisfitError(f"labels go from {labels.min()} to {labels.max()}, and there are {len(class_names)} classes")
    soft = tensors.get("soft_labels")
    if soft is not None and (soft.min() < 0 or (soft.sum(1) - 1).abs().max() > SUM_ERROR):
        raise MisfitError("soft_labels are not shares that sum to 1 in each row")
    if calibration:
        _check_calibration(tensors)


def _check_calibration(tensors: Mapping[str, Tensor]) -> None:
    """Check the ranges of what val said."""
    for name, most in (("temperature", MAX_TEMPERATURE), ("nonconformity", 1.0), ("novelties", 2.0)):
        numbers = tensors[f"calibration.{name}"]
        if numbers.min() < 0 or numbers.max() > most:
            raise MisfitError(f"calibration.{name} goes from {numbers.min():.3g} to {numbers.max():.3g}")
    if tensors["calibration.temperature"] < 1 / MAX_TEMPERATURE:
        raise MisfitError(f"calibration.temperature is {float(tensors['calibration.temperature']):.3g}")


def _check_field(name: str, tensor: Tensor, field: Field, sizes: dict[str, int]) -> None:
    """Check one tensor; ``sizes`` of dimensions that are not known yet are taken from it."""
    if tensor.dtype != field.dtype:
        raise MisfitError(f"{name} is of type {tensor.dtype}, not {field.dtype}")
    fits = tensor.ndim == len(field.shape) and 0 not in tensor.shape
    if not fits or any(sizes.setdefault(at, size) != size for at, size in zip(field.shape, tensor.shape, strict=True)):
        expected = ", ".join(f"{at}={sizes[at]}" if at in sizes and not at.isdigit() else at for at in field.shape)
        raise MisfitError(f"{name} has shape {tuple(tensor.shape)}, not ({expected})")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise MisfitError(f"{name} holds NaN or infinite numbers")


def contents(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
    """Name, type, shape and bytes of tensors, for `synthicl.core.context_header.checksum`."""
    for name, tensor in tensors.items():
        yield name, str(tensor.dtype), tuple(tensor.shape), tensor.cpu().flatten().view(torch.uint8).numpy().tobytes()
