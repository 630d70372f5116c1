"""``icl-vs-gd``."""

from synthicl.studies.icl_vs_gd.show import REGISTERED

__all__ = ["REGISTERED"]
