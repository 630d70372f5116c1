"""``scaling``: accuracy and time of TabICL against the share of the training rows in its context."""

from synthicl.studies.scaling.compute import scaling
from synthicl.studies.scaling.show import figures, finding, tables
from synthicl.studies.study import Study

SCALING = Study("scaling", "Context rows: accuracy and time", scaling, tables, figures, finding)
REGISTERED = {SCALING.name: SCALING}
