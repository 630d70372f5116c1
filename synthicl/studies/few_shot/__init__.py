"""``few-shot``."""

from synthicl.studies.few_shot.show import REGISTERED

__all__ = ["REGISTERED"]
