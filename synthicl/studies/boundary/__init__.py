"""``boundary``: what TabICL decides on a plane, and which context rows it looks at."""

from synthicl.studies.boundary.compute import boundary
from synthicl.studies.boundary.show import figures, finding, tables
from synthicl.studies.study import Study

BOUNDARY = Study("boundary", "Decisions and attention", boundary, tables, figures, finding)
REGISTERED = {BOUNDARY.name: BOUNDARY}
