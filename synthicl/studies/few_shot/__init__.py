"""``few-shot``: accuracy over N-way K-shot episodes, with an interval."""

from synthicl.studies.few_shot.show import REGISTERED

__all__ = ["REGISTERED"]
