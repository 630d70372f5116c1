"""``scaling``."""

from synthicl.studies.scaling.show import REGISTERED

__all__ = ["REGISTERED"]
