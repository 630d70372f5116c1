"""TabICL checkpoints: which one, where it lies, where it comes from. Imports nothing heavy.

TabICL v2: J. Qu, D. Holzmueller, G. Varoquaux and M. Le Morvan, 2026; v1: ICML 2025, https://arxiv.org/abs/2502.05564.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from synthicl.core.assets import Asset, cache_dir, obtain
from synthicl.core.errors import UserError
from synthicl.core.files import FILE, file_fingerprint, kind_of

# Small ones, pre-trained by scripts/pretrain_tabicl.py; mini_1 differs from mini in the seed, and is shipped as a judge
# that was not in the loop.
BUNDLED = {name: Path(__file__).parent / "weights" / f"{name}.ckpt" for name in ("mini", "mini_1")}
MINI = BUNDLED["mini"]
HUB = "jingang/TabICL"
MAX_CLASSES = 10  # tabicl's default, where a checkpoint does not say
VERSIONS = {
    "v2": "tabicl-classifier-v2-20260212.ckpt",
    "v1.1": "tabicl-classifier-v1.1-20250506.ckpt",
    "v1": "tabicl-classifier-v1-20250208.ckpt",
}


def checkpoint_asset(
    checkpoint: str,
    model_path: str | Path | None = None,
    flags: tuple[str, str] = ("--tabicl.checkpoint", "--tabicl.model_path"),
) -> Asset:
    """Where a TabICL checkpoint is looked for.

    Args:
        checkpoint: ``mini`` or ``mini_1`` (bundled), ``v2``, ``v1.1`` or ``v1``, or a local file ``*.ckpt``.
        model_path: a local file that takes its place.
        flags: what messages name: where a checkpoint is chosen, and where a file is supplied.

    Raises:
        UserError: unknown checkpoint.
    """
    choice, flag = flags
    if model_path is not None or checkpoint.endswith(".ckpt"):
        return Asset("TabICL checkpoint", flag, (Path(model_path or checkpoint),))
    if checkpoint in BUNDLED:
        return Asset(f"bundled TabICL checkpoint {checkpoint}", flag, (BUNDLED[checkpoint],))
    if checkpoint not in VERSIONS:
        known = ", ".join([*BUNDLED, *VERSIONS])
        raise UserError(f"{choice}={checkpoint}: unknown. Choose one of: {known}; or name a *.ckpt file.")
    name = VERSIONS[checkpoint]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{HUB.replace('/', '--')}"
    snapshots = sorted((hub / "snapshots").glob(f"*/{name}")) or [hub / "snapshots" / name]
    source = f"https://huggingface.co/{HUB}/resolve/main/{name}"
    return Asset(f"TabICL {checkpoint} checkpoint", flag, (*snapshots, cache_dir() / name), source)


def checkpoint_name(checkpoint: str, model_path: str | Path | None = None) -> str:
    """How a checkpoint is called in metadata and results: its name, or that of the file in its place."""
    return checkpoint if model_path is None else Path(model_path).name


def find_checkpoint(checkpoint: str, model_path: str | Path | None = None, made_with: str | None = None) -> Path:
    """Where a TabICL checkpoint lies; it is downloaded if need be.

    Args:
        checkpoint: as in `checkpoint_asset`.
        model_path: likewise.
        made_with: fingerprint of the file that a context set was made with; None where it does not say.

    Raises:
        UserError: unknown checkpoint, a missing file, or other weights than those of the context set.
    """
    path = obtain(checkpoint_asset(checkpoint, model_path))
    if (kind := kind_of(path)) != FILE:
        raise UserError(f"--tabicl.model_path={path}: not a TabICL checkpoint (it is {kind}). Name the file itself.")
    if made_with not in (None, file_fingerprint(path)):
        raise UserError(
            f"--tabicl.model_path={path}: these weights ({file_fingerprint(path)}) are not those the context set was "
            f"made with ({made_with}). Supply the same file; `synthicl compare` scores others with --checkpoints."
        )
    return path


def is_published(checkpoint: str) -> bool:
    """Whether the name of a checkpoint, or of a file in its place, is that of one of TabICL's authors."""
    return checkpoint in VERSIONS or checkpoint in VERSIONS.values()


@cache
def check_checkpoint(path: Path, flag: str = "--tabicl.model_path") -> int:
    """Check that a file is a checkpoint in tabicl's format.

    Args:
        path: the file.
        flag: what the message names.

    Returns:
        How many classes it tells apart at once.

    Raises:
        UserError: it is not; nothing in it was executed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: nothing is to be looked up
    # Names are checked before torch is loaded, files are opened after.
    import torch

    # Loads tabicl with it.
    from synthicl.tabicl.differentiable import misfit

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"config", "state_dict"} - set(content)
    except Exception as error:  # torch.load states no list of what it raises
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{flag}={path}: not a TabICL checkpoint ({type(error).__name__}: {reason}). Choose another."
        ) from error
    if missing:
        raise UserError(f"{flag}={path}: not a TabICL checkpoint (it lacks {', '.join(sorted(missing))}).")
    if reason := misfit(content["config"], content["state_dict"]):
        raise UserError(f"{flag}={path}: not a TabICL checkpoint ({reason}). Choose another.")
    return int(content["config"].get("max_classes", MAX_CLASSES))
