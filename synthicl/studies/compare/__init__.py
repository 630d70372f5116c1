"""``compare``: contexts of equal size, and all data, with every probe on the same queries."""

from synthicl.studies.compare.compute import compare
from synthicl.studies.compare.show import figures, finding, score_tables, tables
from synthicl.studies.study import Study

COMPARE = Study("compare", "Contexts and probes", compare, tables, figures, finding, score_tables)
REGISTERED = {COMPARE.name: COMPARE}
