"""``compare``: contexts of equal size, and all data, with every probe on the same queries."""

from synthicl.studies.compare.show import REGISTERED

__all__ = ["REGISTERED"]
