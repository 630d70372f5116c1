"""``transfer``."""

from synthicl.studies.transfer.show import REGISTERED

__all__ = ["REGISTERED"]
