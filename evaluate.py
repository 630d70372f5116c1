"""Score context sets: ``.venv/bin/python evaluate.py compare outputs/digits/latest``; ``--help`` shows every setting."""

import sys

from synthicl.cli.main import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
