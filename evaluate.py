"""Score context sets: ``.venv/bin/python evaluate.py compare outputs/digits/latest``; ``--help`` shows all settings."""

import sys

from synthicl.cli.main import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
