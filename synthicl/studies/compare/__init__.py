"""``compare``."""

from synthicl.studies.compare.show import REGISTERED

__all__ = ["REGISTERED"]
