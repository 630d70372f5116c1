"""The command lines, ``train.py`` and ``evaluate.py``, and what both do with errors."""

from __future__ import annotations

import errno
import re
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable
from types import FrameType

from synthicl.cli import preflight
from synthicl.core.errors import UserError
from synthicl.core.files import disk_error


def train(args: list[str] | None = None) -> int:
    """Run ``train.py``.

    Args:
        args: command line without the program's name; None for this process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _train(arguments))


def _train(args: list[str]) -> None:
    if args and not args[0].startswith("-"):
        args = preflight.expand(args)
        if not {"-h", "--help", "--print_config"} & set(args):
            preflight.check_training(preflight.settings(args))
    from synthicl.cli.fit import run

    run(args)


def guarded(command: Callable[[], object]) -> int:
    """Run a command; a mistake of the user's becomes one line on stderr and exit code 2, an interruption 130 or 143.

    Checkpoints are written whole at fixed steps and never while an error is handled, so the last one stays good.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        command()
    except UserError as error:
        # A process that reads images hands over its whole traceback; its last line is the message.
        return _say(f"error: {str(error).rpartition(f'{UserError.__module__}.UserError: ')[2].strip()}", 2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _say(f"error: {disk_error(error.filename or 'a file of this run', error)}", 2)
    except ArgumentError as error:
        return _say(f"error: {' '.join(str(error).split())} (--help shows every setting)", 2)
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except Exception as error:
        if isinstance(error, RuntimeError) and re.search(r"/gloo/|\bNCCL\b", str(error)):
            return _say("error: another process of this run was lost. A run goes on with CKPT=PATH, on any devices.", 1)
        # Lightning's word for settings that do not fit together; the class cannot be imported before torch.
        if type(error).__name__ != "MisconfigurationException":
            raise
        return _say(f"error: {' '.join(str(error).split())}", 2)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            return _say("Interrupted. A run goes on from its last checkpoint with CKPT=PATH.", 130)
        if error.code == 143:
            return _say("Terminated. A run goes on from its last checkpoint with CKPT=PATH.", 143)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _say(line: str, code: int) -> int:
    print(f"\n{line}", file=sys.stderr, flush=True)
    return code


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(143)


def evaluate(args: list[str] | None = None) -> int:
    """Run ``evaluate.py``.

    Args:
        args: command line without the program's name; None for this process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    return guarded(lambda: _evaluate(arguments))


def _evaluate(args: list[str]) -> None:
    preflight.check_evaluation(args)
    from synthicl.cli.evaluate import run

    run(args)
