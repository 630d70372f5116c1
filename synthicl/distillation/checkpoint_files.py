"""Checkpoints as files of a run: whole, with a checksum, read without running code, found where the run lies."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from synthicl.core.errors import UserError
from synthicl.core.files import write_whole

CHECKSUM = "checksum"  # what a checkpoint calls it
SCORE = "val/tabicl_accuracy"  # what "best" means


def seal(checkpoint: dict[str, Any]) -> None:
    """Put the checksum of everything else into a checkpoint."""
    checkpoint[CHECKSUM] = checksum(checkpoint)


def checksum(checkpoint: Mapping[Any, Any]) -> str:
    """SHA-256 of what a checkpoint says, itself left out: of names and numbers, not of the bytes of a file.

    Bytes that nothing is read from, such as the padding of a zip archive, may change.
    """
    digest = hashlib.sha256()
    _feed(digest, {name: value for name, value in checkpoint.items() if name != CHECKSUM})
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, value: object) -> None:
    """Add a value to a checksum, so that no two values give it the same bytes."""
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(numbers.data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        for name, item in value.items():
            _feed(digest, name)
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, bool | int | float | complex | str | bytes | None):
        text = repr(value).encode()
        digest.update(f"{type(value).__name__} {len(text)} ".encode() + text)
    else:  # what says nothing of itself that is the same in another process
        digest.update(f"object {type(value).__name__} ".encode())


def verify(checkpoint: Mapping[str, Any], source: str = "--ckpt_path") -> None:
    """Check that a checkpoint is as it was written.

    Args:
        checkpoint: what was read.
        source: flag and file, for the message.

    Raises:
        UserError: it is not, or it was written without a checksum.
    """
    if CHECKSUM not in checkpoint:
        raise UserError(f"{source}: has no checksum: damaged, or of an older version. Resume from another checkpoint.")
    if checkpoint[CHECKSUM] != checksum(checkpoint):
        raise UserError(f"{source}: damaged: its checksum does not match. Resume from another checkpoint.")


def read_checkpoint(path: str | Path, source: str) -> dict[str, Any]:
    """Read a checkpoint of a distillation onto the CPU; no code in it is run.

    Raises:
        UserError: it is not one, or is not as it was written.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"], content.items()
    except Exception as error:  # torch.load states no list of what it raises
        reason = type(error).__name__
        raise UserError(f"{source}: not a checkpoint, or damaged ({reason}). Resume from another one.") from error
    verify(content, source)
    checkpoint: dict[str, Any] = content
    return checkpoint


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole, beside the one that they replace: Lightning's way there leads through ``/tmp``."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        content = io.BytesIO()  # a full disk is an OSError in Python, and anything in torch
        torch.save(checkpoint, content)
        write_whole(Path(path), lambda temporary: temporary.write_bytes(content.getbuffer()))


class RunCheckpoint(ModelCheckpoint):
    """``checkpoints/<name>.ckpt`` of a run, written at each validation, or where a score is best.

    A run that resumes keeps its best score. Where its files lie is not remembered: a run may have been moved, and
    another one may lie in its old place.

    Args:
        folder: the run's.
        name: of the file.
        monitor: what has to be highest; None writes always.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        mode = "max" if monitor else "min"
        folder = folder.resolve() / "checkpoints"
        super().__init__(folder, name, monitor=monitor, mode=mode, enable_version_counter=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "best_model_score": self.best_model_score}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score = state_dict["best_model_score"]
        path = Path(str(self.dirpath)) / f"{self.filename}.ckpt"
        if score is not None and path.is_file():  # without the file, the next validation is the best
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_model_score = self.kth_value = score
            self.best_k_models = {str(path): score}
