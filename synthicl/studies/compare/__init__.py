"""``compare``: what it computes, and what it shows."""

from synthicl.studies.compare.compute import compare
from synthicl.studies.compare.show import figures, tables
from synthicl.studies.study import Study

COMPARE = Study("compare", "Contexts and probes", compare, tables, figures)
REGISTERED = {COMPARE.name: COMPARE}
