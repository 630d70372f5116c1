"""What the file of a context set says about itself, besides its tensors. Imports no torch: it is read before.

| key of the header | what it is |
| --- | --- |
| ``format`` | ``synthicl context set`` and the number of the format |
| ``class_names`` | a list of texts: the name of each class index |
| ``preprocessing`` | name and number of members of TabICL's preprocessing |
| ``metadata`` | what identifies the set; of the names in `METADATA`, the values are checked |
| ``checksum`` | SHA-256 of the other keys and of the tensors, see `checksum` |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import safe_open

from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, FILE, kind_of, safe_folder_name
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.core.text import first_collision, printable

NAME, FORMAT = "synthicl context set", 2
KEYS = {"format", "class_names", "preprocessing", "metadata", "checksum"}
_FORMAT = re.compile(rf"{NAME} ([1-9]\d{{0,5}})", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{16}")


def _whole(least: int, most: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most


_TEXT = "a text", lambda value: isinstance(value, str) and bool(value)
_HEXADECIMAL = "16 hexadecimal digits", lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value))
_SEED = _whole(0, 2**64 - 1)
METADATA: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("dataset", "dataset_licence", "backbone", "backbone_licence", "objective", "real"), _TEXT),
    **dict.fromkeys(("checkpoint", "tabicl_checkpoint"), _TEXT),
    **dict.fromkeys(("backbone_weights", "tabicl_weights", "extends"), _HEXADECIMAL),
    **dict.fromkeys(("seed", "split_seed"), _SEED),
    "random_state": _whole(0, 2**32 - 1),  # what NumPy takes
    "crop_size": _whole(1, 8192),
    **dict.fromkeys(("ipc", "frozen"), _whole(1, 10**9)),
    "steps": _whole(0, 2**63 - 1),
    "label_type": ("str or int", lambda value: value in ("str", "int")),
    "versions": (
        "a table of texts",
        lambda value: isinstance(value, dict) and all(isinstance(number, str) for number in value.values()),
    ),
}
"""What a value of the metadata must be, in words and as a test. Any name may be missing, and others may be there."""


class MisfitError(ValueError):
    """What is wrong in a file of a context set, without its path.

    Attributes:
        remedy: the sentence about what to do.
    """

    def __init__(self, found: str, remedy: str = "Run the distillation again.") -> None:
        super().__init__(found)
        self.remedy = remedy


@dataclass(frozen=True)
class Header:
    """The header of a context set.

    Attributes:
        class_names: name of each class index.
        preprocessing: name of TabICL's preprocessing.
        n_estimators: its number of members; both are checked where they are used.
        metadata: what identifies the set.
        written: the keys and values as they stand in the file, all of them texts.
    """

    class_names: list[str]
    preprocessing: str
    n_estimators: Any
    metadata: dict[str, Any]
    written: Mapping[str, str]

    @classmethod
    def parse(cls, written: Mapping[str, str]) -> Header:
        """Read and check a header.

        Raises:
            MisfitError: a key is missing, or holds something else.
        """
        _check_format(written)
        class_names, preprocessing, metadata = (
            _json(name, written[name]) for name in ("class_names", "preprocessing", "metadata")
        )
        if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
            raise MisfitError("class_names is not a list of texts")
        if not isinstance(preprocessing, dict) or set(preprocessing) != {"name", "n_estimators"}:
            raise MisfitError("preprocessing does not hold name and n_estimators, and nothing else")
        if not isinstance(preprocessing["name"], str):
            raise MisfitError("the preprocessing's name is not a text")
        if not isinstance(metadata, dict):
            raise MisfitError("metadata is not a table")
        check_metadata(metadata)
        check_class_names(class_names)
        return cls(class_names, preprocessing["name"], preprocessing["n_estimators"], metadata, written)


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Check the values that others rely on.

    Raises:
        MisfitError: one is not what `METADATA` says.
    """
    for name, (words, fits) in METADATA.items():
        if name in metadata and not fits(metadata[name]):
            raise MisfitError(f"metadata: {name} is {json.dumps(metadata[name])[:60]}, not {words}")


def check_class_names(class_names: Iterable[str]) -> None:
    """Check that each name can be a folder's, and that no two are one.

    Raises:
        UserError: a name cannot be a folder's.
        MisfitError: there are none, or two look the same, being the same text or one in another Unicode form.
    """
    names = [safe_folder_name(name) for name in class_names]
    if not names:
        raise MisfitError("there are no classes")
    if pair := first_collision(names):
        raise MisfitError(f"two classes have one name, {pair[0]!r}")


def checksum(written: Mapping[str, str], tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    """SHA-256 of a context set, in hexadecimal digits.

    Args:
        written: the header; its ``checksum`` plays no part.
        tensors: name, type, shape and bytes of each.
    """
    digest = hashlib.sha256()
    for name in sorted(set(written) - {"checksum"}):
        digest.update(json.dumps([name, written[name]]).encode())
    for *about, content in sorted(tensors):
        digest.update(json.dumps([*about, len(content)]).encode())
        digest.update(content)
    return digest.hexdigest()


def context_file(folder: Path) -> Path:
    """The file of the context set in a folder.

    Raises:
        UserError: there is none.
    """
    path = folder / CONTEXT_FILE
    if (kind := kind_of(path)) != FILE:
        raise UserError(
            f"{folder}: no context set there (looked for {CONTEXT_FILE}"
            f"{'' if kind == ABSENT else f', which is {kind}'}). Name the folder of a finished run."
        )
    return path


def refused(path: Path, error: Exception) -> UserError:
    """The line a user reads about a file that is no context set, or a damaged one."""
    reason = printable(" ".join(str(error).split())[:200] or type(error).__name__).removesuffix(".")
    remedy = error.remedy if isinstance(error, MisfitError) else "Run the distillation again."
    return UserError(f"{path}: not a context set, or damaged ({reason}). {remedy}")


def read_header(folder: Path) -> Header:
    """The header of the context set in a folder.

    Raises:
        UserError: there is no set, or it is damaged.
    """
    path = context_file(folder)
    try:
        with safe_open(path, "np") as file:
            return Header.parse(file.metadata() or {})
    except Exception as error:  # safetensors states no list of what it raises
        raise refused(path, error) from error


def _check_format(written: Mapping[str, str]) -> None:
    """Check the number of the format, then that the keys are its own."""
    found = _FORMAT.fullmatch(written.get("format", ""))
    if not found:
        raise MisfitError(f"format is {written.get('format', 'missing')!r:.60}, not {NAME} {FORMAT}")
    number = int(found[1])
    if number > FORMAT:
        found_by = re.search(r'"synthicl": "([\w.+-]{1,40})"', written.get("metadata", ""))  # as versions are written
        newer = f"synthicl {found_by[1]}" if found_by else "a newer synthicl"
        raise MisfitError(f"it is of format {number}, and this synthicl reads {FORMAT}", f"Read it with {newer}.")
    if number < FORMAT:
        raise MisfitError("synthicl 0.1.0 wrote it", "Read it with that version, or run the distillation again.")
    for keys, what in ((KEYS - set(written), "lacks"), (set(written) - KEYS, "should not hold")):
        if keys:
            raise MisfitError(f"its header {what} {', '.join(sorted(keys))[:80]}")


def _json(name: str, text: str) -> Any:
    def constant(word: str) -> NoReturn:
        raise MisfitError(f"{name} holds {word}, which JSON has not")

    try:
        return json.loads(text, parse_constant=constant)
    except MisfitError:
        raise
    except (ValueError, RecursionError) as error:
        raise MisfitError(f"{name} is not JSON: {error}") from error
