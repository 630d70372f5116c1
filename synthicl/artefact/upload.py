"""``publish``: put a context set on the Hugging Face Hub, as a dataset that ``load_dataset`` reads.

What is sent is the context set and nothing else of its run: card, tensors, pictures. The rest of a run stays here, as
it tells about the machine or shows real images: config.yaml holds paths, results.json and report.html hold command
lines, and after ``synthicl privacy`` predictions.safetensors, figures/ and report.html hold training images.

Without being told to, nothing is sent and no network is touched.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, constants, get_token
from torch import equal
from torchvision.io import ImageReadMode, decode_image

from synthicl.artefact.context_set import ContextSet
from synthicl.core.assets import reachable
from synthicl.core.context_header import read_header
from synthicl.core.errors import UserError
from synthicl.core.files import FILE, kind_of
from synthicl.core.hub import is_repo_id, reason
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.core.text import printable

CARD = "README.md"
OURS = {CARD, ".gitattributes"}  # what an empty repository may hold
# An absolute path of Linux, macOS or Windows; https://... is none.
_PATH = re.compile(r"(?<![\w.:/*)\]-])/(?:[\w.@+-]+/)+[\w.@+-]+|\b[A-Za-z]:\\+[\w.\\-]+")


def publish(run: Path | str, repo: str, upload: bool = False, public: bool = False) -> None:
    """List what would be published of a run or a context set; send it if told to.

    Args:
        run: folder of a finished run, or of a context set: outputs/digits/latest/best_on_val is one too.
        repo: id on the Hub, ``user/name``; made if need be.
        upload: whether it is sent.
        public: whether a repository that is made may be read by everybody, and one that may be is written to.

    Raises:
        UserError: the folder is no sound context set with its card, names a place on this machine, the id is none, or
            the Hub refuses.
    """
    if not is_repo_id(repo):
        raise UserError(
            f"{repo}: not the id of a repository. Write user/name, such as me/ten-digits, of letters, digits, '-', '_' "
            "and '.'."
        )
    folder = Path(run)
    files = files_of(folder)
    for name, path in files.items():
        print(f"{path.stat().st_size / 1000:9.1f} kB  {printable(name)}")
    total = sum(path.stat().st_size for path in files.values())
    kept = sorted({path.name for path in folder.iterdir()} - {name.partition("/")[0] for name in files})
    print(
        f"{len(files)} files, {total / 1000:.1f} kB.",
        f"Not among them: {', '.join(map(printable, kept)) or 'nothing'}.",
    )
    address, kind = f"{constants.ENDPOINT}/datasets/{repo}", "public" if public else "private"
    if upload:
        print(f"Sent: {send(files, repo, public)}", flush=True)
    else:
        print(f"Nothing was sent. Add --upload=true to send them to {address} ({kind}).", flush=True)


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a context set by their names in a repository, checked.

    Raises:
        UserError: no context set, one that is damaged, a picture that is not its image, no card that says what the
            dataset is, or one that names a place on this machine.
    """
    context, written = ContextSet.load(folder), read_header(folder).written
    names = [CARD, CONTEXT_FILE]
    number = dict.fromkeys(context.class_names, 0)
    if context.images is not None:
        names.append("grid.png")
        for image, label in zip(context.images, context.labels.tolist(), strict=True):
            name = context.class_names[label]
            if "::" in name:
                raise UserError(f"{folder}: class {name!r} would be lost, as `datasets` reads :: otherwise. Rename it.")
            names.append(f"images/{name}/{number[name]:03d}.png")
            number[name] += 1
            try:
                same = equal(decode_image(str(folder / names[-1]), ImageReadMode.UNCHANGED), image)
            except RuntimeError:  # torchvision's word for a file that is absent or damaged
                same = False
            if not same:
                raise UserError(f"{folder / names[-1]}: not the image of {CONTEXT_FILE}. Run the distillation again.")
    files = {name: folder / name for name in names}
    for path in files.values():
        if kind_of(path) != FILE:
            raise UserError(f"{path}: missing. {_remedy(folder)}")
    card = (folder / CARD).read_text(encoding="utf-8")
    if context.images is not None and not _says_what_is_data(card):
        raise UserError(f"{folder / CARD}: does not say which files are the dataset. {_remedy(folder)}")
    for path, text in ((folder / CARD, card), (folder / CONTEXT_FILE, "\n".join(written.values()))):
        if found := _PATH.search(text):
            raise UserError(
                f"{path}: names a place on this machine, {found[0]}. Nothing is published. Run the distillation again "
                "with a relative path."
            )
    return files


def _says_what_is_data(card: str) -> bool:
    try:
        return bool(card.startswith("---") and getattr(DatasetCard(card).data, "configs", None))
    except Exception:  # of YAML, or of what the Hub's client makes of it
        return False


def _remedy(folder: Path) -> str:
    return f"`synthicl compare {printable(folder)} --splits=val` writes the card anew."


def send(files: dict[str, Path], repo: str, public: bool) -> str:
    """Send files to a dataset repository in one commit; pictures there that are no longer among them are removed.

    Args:
        files: by their names in the repository.
        repo: its id; made if need be, private unless ``public``.
        public: see `publish`.

    Returns:
        Address of the commit.

    Raises:
        UserError: nobody is logged in, the Hub is out of reach or refuses, or the repository holds something else.
    """
    if get_token() is None:
        raise UserError(f"{repo}: nobody is logged in to the Hugging Face Hub. Run `hf auth login`, or set $HF_TOKEN.")
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise UserError(f"{repo}: the Hugging Face Hub ({constants.ENDPOINT}) is out of reach. Nothing was sent.")
    api, there = HfApi(), set[str]()
    try:
        if api.repo_exists(repo, repo_type="dataset"):
            about = api.dataset_info(repo)
            there = {sibling.rfilename for sibling in about.siblings or []}
            if CONTEXT_FILE not in there and there - OURS:
                raise UserError(f"{repo}: this repository holds something else. Nothing was sent. Name another.")
            if not about.private and not public:
                raise UserError(f"{repo}: everybody may read this repository. Nothing was sent. Add --public=true.")
        else:
            api.create_repo(repo, repo_type="dataset", private=not public)
        stale = sorted(name for name in there - set(files) if name.startswith("images/"))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, path) for name, path in files.items()),
            *(CommitOperationDelete(name) for name in stale),
        ]
        commit = api.create_commit(repo, operations, commit_message="Context set of synthicl", repo_type="dataset")
    except UserError:
        raise
    except Exception as error:  # the Hub's client states no list of what it raises
        raise UserError(f"{repo}: the Hugging Face Hub refuses ({reason(error)}). Mend that and run again.") from error
    return str(commit.commit_url)
