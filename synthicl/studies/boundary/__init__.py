"""``boundary``: what TabICL decides on a plane, and which context rows it looks at."""

from synthicl.studies.boundary.compute import boundary
from synthicl.studies.boundary.show import figures, tables
from synthicl.studies.study import Study

BOUNDARY = Study("boundary", "Decisions and attention", boundary, tables, figures)
REGISTERED = {BOUNDARY.name: BOUNDARY}
