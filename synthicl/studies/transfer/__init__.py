"""``transfer``: synthetic images that were distilled with one backbone, seen by others."""

from synthicl.studies.transfer.show import REGISTERED

__all__ = ["REGISTERED"]
