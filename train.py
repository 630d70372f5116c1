"""Distil a dataset: ``python train.py fit -c configs/data/digits.yaml``; ``--help`` shows every setting."""

import sys

from synthicl.cli.main import train

if __name__ == "__main__":
    sys.exit(train())
