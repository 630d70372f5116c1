"""``icl-vs-gd``: whether TabICL predicts what a linear probe predicts after some steps of gradient descent."""

from synthicl.studies.icl_vs_gd.show import REGISTERED

__all__ = ["REGISTERED"]
