"""``few-shot``: accuracy over N-way K-shot episodes, with an interval."""

from synthicl.studies.few_shot.compute import few_shot
from synthicl.studies.few_shot.show import figures, finding, tables
from synthicl.studies.study import Study

FEW_SHOT = Study("few-shot", "Few-shot episodes", few_shot, tables, figures, finding)
REGISTERED = {FEW_SHOT.name: FEW_SHOT}
