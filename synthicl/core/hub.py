"""Context sets on the Hugging Face Hub: what a repository's id is, and the folder of a set that is fetched from there.

A set on the Hub is a dataset repository that `synthicl publish` made. Of it one file is fetched, into the Hub's own
cache; it is checked when it is read, like any other. With `synthicl.core.assets` and `synthicl.artefact.upload` this is
what touches the network. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

# Imported before anything sets HF_HUB_OFFLINE for TabICL, which the Hub's client reads once.
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in their __init__.py

from synthicl.core.assets import reachable
from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, FOLDER, kind_of
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.core.text import printable


def is_repo_id(name: str) -> bool:
    """Whether a text is the id of a repository, ``user/name``."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def is_on_hub(context: Path | str) -> bool:
    """Whether what names a context set is meant as a repository's id: a text ``user/name`` and no path.

    What lies here under that name wins. Where there is a folder ``user`` it is a path that was mistyped, and stays off
    the network.
    """
    if not isinstance(context, str) or not is_repo_id(context):
        return False
    return kind_of(Path(context)) == ABSENT and kind_of(Path(context).parent) != FOLDER


def local_folder(context: Path | str) -> Path:
    """The folder of a context set: the one that is named, or that of a repository's id, fetched if need be.

    Raises:
        UserError: there is no such repository, it holds no context set, or the Hub is out of reach and the set has not
            been fetched before.
    """
    return fetched(str(context)) if is_on_hub(context) else Path(context)


def fetched(repo: str) -> Path:
    """The folder in the Hub's cache with the context set of a repository; without a network, of an earlier call.

    Raises:
        UserError: see `local_folder`.
    """
    offline = constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)
    try:
        return Path(hf_hub_download(repo, CONTEXT_FILE, repo_type="dataset", local_files_only=offline)).parent
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{repo}: neither a folder here nor fetched before, and the Hugging Face Hub ({constants.ENDPOINT}) is out "
            f"of reach. Name the folder of a context set, such as one that was fetched elsewhere: hf download {repo} "
            "--repo-type=dataset --local-dir=FOLDER"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{repo}: neither a folder here nor a dataset on the Hugging Face Hub that you may read. Check the name; "
            "if it is private, log in with `hf auth login`."
        ) from error
    except EntryNotFoundError as error:
        raise UserError(
            f"{repo}: this dataset on the Hugging Face Hub holds no {CONTEXT_FILE}. Name another."
        ) from error
    except Exception as error:  # the Hub's client states no list of what it raises
        raise UserError(
            f"{repo}: could not be fetched from the Hugging Face Hub ({reason(error)}). Run again, or name a folder."
        ) from error


def reason(error: Exception) -> str:
    """What an error of the Hub's client says, on one line."""
    return printable(" ".join(str(error).split())[:200] or type(error).__name__).removesuffix(".")
