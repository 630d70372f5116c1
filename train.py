"""Distil a dataset: ``.venv/bin/python train.py fit -c data/digits``; ``--help`` shows every setting."""

import sys

from synthicl.cli.main import train

if __name__ == "__main__":
    sys.exit(train())
