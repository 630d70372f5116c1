"""``boundary``: what it computes, and what it shows."""

from synthicl.studies.boundary.compute import boundary
from synthicl.studies.boundary.show import figures, tables
from synthicl.studies.study import Study

BOUNDARY = Study("boundary", "Decisions and attention", boundary, tables, figures)
REGISTERED = {BOUNDARY.name: BOUNDARY}
