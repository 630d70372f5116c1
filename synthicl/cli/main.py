"""The command ``synthicl``, ``train.py`` and ``evaluate.py``, and what all do with errors."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from synthicl.cli import command_line, preflight
from synthicl.cli.command_line import TOOLS
from synthicl.core.errors import UserError
from synthicl.core.files import disk_error
from synthicl.core.registry import plugins

TRAINING = {
    "fit": "Distil a dataset: synthicl fit -c data/digits.",
    "validate": "Score the synthetic images of a checkpoint on val.",
    "test": "Score them on test.",
}
AGAIN = "The same command continues where it stopped."


def main(args: list[str] | None = None) -> int:
    """Run ``synthicl``: a training as ``train.py`` does, a study or one of `TOOLS` as ``evaluate.py`` does.

    Args:
        args: command line without the program's name; None for this process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _main(arguments), _resumes(arguments))


def _main(args: list[str]) -> None:
    evaluations = studies() | TOOLS
    command = args[0] if args else "--help"
    if command in {"-h", "--help"}:
        print(usage(TRAINING | evaluations))
    elif command in TRAINING:
        _train(args)
    elif command in evaluations:
        _evaluate(args)
    else:
        raise UserError(f"{command}: unknown command. Choose one of: {', '.join(TRAINING | evaluations)}.")


def studies() -> dict[str, str]:
    """The studies by name with a line about each; nothing of them is imported, as that would load torch."""
    found = {}
    for room in sorted((Path(__file__).parents[1] / "studies").glob("*/__init__.py")):
        about = ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))) or ""
        line = about.partition("\n")[0].rpartition("``: ")[2]
        found[room.parent.name.replace("_", "-")] = line[:1].upper() + line[1:]
    return found | {plugin.name: f"Of {plugin.value}." for plugin in plugins("synthicl.studies")}


def usage(commands: Mapping[str, str]) -> str:
    """What ``synthicl --help`` shows."""
    lines = "\n".join(f"  {name:12} {text}" for name, text in commands.items())
    return f"usage: synthicl COMMAND ...\n\n{lines}\n\nsynthicl COMMAND --help shows the settings of a command."


def train(args: list[str] | None = None) -> int:
    """Run ``train.py``, see `main`."""
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _train(arguments))


def _train(args: list[str]) -> None:
    words, flags = command_line.split(args)
    if words:
        flags = command_line.expand(flags)
        if not command_line.asks_for_help(flags):
            preflight.check_training(command_line.with_defaults(flags))
    # torch is loaded here, after what can be said without it.
    from synthicl.cli.fit import run

    run(command_line.written(words, flags))


def guarded(command: Callable[[], object], resumes: str = "") -> int:
    """Run a command; a mistake of the user's becomes one line on stderr and exit code 2, an interruption 130 or 143.

    Checkpoints are written whole at fixed steps and never while an error is handled, so the last one stays good.

    Args:
        command: what to run. What it adds to an interruption as a note is said with it.
        resumes: what is said with an interruption that has no note.

    Returns:
        The exit code: 1 for a defect of this program's, whose traceback goes to a file.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    hook, threading.excepthook = threading.excepthook, _quiet(threading.excepthook)
    try:
        for number, handler in before.items():
            if number == signal.SIGTERM or handler == signal.SIG_DFL:  # nohup ignores a closed terminal
                signal.signal(number, _terminate)
        command()
        sys.stdout.flush()  # what nobody reads any more is found out here, and not when Python ends
    except BaseException as error:
        return _end(error, resumes)
    finally:
        threading.excepthook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _end(error: BaseException, resumes: str) -> int:
    """Say how a command ended; returns the exit code."""
    ended = " ".join(getattr(error, "__notes__", [])) or resumes
    # The classes of Lightning and torch cannot be imported before torch.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    one_line = " ".join(str(error).split())
    if isinstance(error, UserError):
        # A process that reads images hands over its whole traceback; its last line is the message.
        return _say(f"error: {str(error).rpartition(f'{UserError.__module__}.UserError: ')[2].strip()}", 2)
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO) and not error.filename:
        for stream in (sys.stdout, sys.stderr):  # whoever reads them has seen enough, or the terminal is gone
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return _say(f"error: {disk_error(error.filename or 'a file of this run', error)}", 2)
    if isinstance(error, ArgumentError):
        return _say(f"error: {_of_parser(one_line)} (--help shows every setting)", 2)
    if "MisconfigurationException" in kinds:  # Lightning's word for settings that do not fit together
        return _say(f"error: {one_line}", 2)
    if isinstance(error, MemoryError) or "OutOfMemoryError" in kinds or "can't allocate memory" in one_line:
        return _say(f"error: the memory is full ({one_line[:200]}). Ask for fewer or smaller images, views or rows.", 2)
    if isinstance(error, RuntimeError) and re.search(r"/gloo/|\bNCCL\b", str(error)):
        return _say(
            "error: another process of this run was lost. A run resumes with --ckpt_path=PATH, on any devices.", 1
        )
    # Lightning turns Ctrl-C into exit code 1.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return _say(f"Interrupted. {ended}".rstrip(), 130)
    if isinstance(error, SystemExit):
        if error.code in (_ended_by(signal.SIGTERM), _ended_by(signal.SIGHUP)):
            return _say(f"Terminated. {ended}".rstrip(), int(error.code))
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return _say(f"error: a defect of synthicl, not of yours: {_reported(error)}", 1)


def _of_parser(line: str) -> str:
    """What the parser says; a setting within a group is named in full, and what else it tried is left out."""
    group, inner = re.search(r'Parser key "([\w.]+)"', line), re.search(r"NestedArg\(key='(\w+)', val=(.*?)\)", line)
    expected = re.search(r"Expected an? (?!<class 'NoneType'>)(.*?)\. Got value", line)
    if group and "Unable to load config" in line:
        return f"--{group[1]}: a group of settings, not one. Write --{group[1]}.NAME=VALUE."
    if not (group and inner and expected):
        return line
    return f"--{group[1]}.{inner[1]}={inner[2]}: expected a {expected[1]}. Write another value, or leave it out."


_OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO, errno.EFBIG)
}


def _reported(error: BaseException) -> str:
    """Write a traceback to a file; what happened, and where that is."""
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        handle, name = tempfile.mkstemp(prefix="synthicl-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"{shlex.join(sys.argv)}\n{text}")
    except OSError:  # nowhere to write: better a long message than none
        return f"{what}\n{text}"
    return f"{what}. The traceback is in {name}: please report it."


def _quiet(hook: Callable[[threading.ExceptHookArgs], object]) -> Callable[[threading.ExceptHookArgs], object]:
    """A hook for threads that leaves a full disk to who waits for the thread: TensorBoard's writer hands it on."""

    def quiet(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            hook(args)

    return quiet


def _say(line: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"\n{line}", file=sys.stderr, flush=True)
    return code


def _ended_by(number: int) -> int:
    """The exit code of what a signal ended."""
    return 128 + number


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(_ended_by(signum))


def evaluate(args: list[str] | None = None) -> int:
    """Run ``evaluate.py``, see `main`."""
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _evaluate(arguments), _resumes(arguments))


def _resumes(args: list[str]) -> str:
    """What is said when a command was interrupted: a study continues, what writes one file begins again."""
    return "" if args[:1] and args[0] in TRAINING | TOOLS else AGAIN


def _evaluate(args: list[str]) -> None:
    words, flags = command_line.split(args)
    if not command_line.asks_for_help(flags):
        preflight.check_evaluation(words, command_line.settings(flags))
    # torch is loaded here, after what can be said without it.
    from synthicl.cli.evaluate import run

    run(command_line.written(words, flags))
