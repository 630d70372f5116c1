"""``boundary``: what TabICL decides on a plane, and which context rows it looks at."""

from synthicl.studies.boundary.show import REGISTERED

__all__ = ["REGISTERED"]
