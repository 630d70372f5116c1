"""``boundary``."""

from synthicl.studies.boundary.show import REGISTERED

__all__ = ["REGISTERED"]
