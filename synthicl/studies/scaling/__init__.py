"""``scaling``: accuracy and time of TabICL against the share of the training rows in its context."""

from synthicl.studies.scaling.show import REGISTERED

__all__ = ["REGISTERED"]
