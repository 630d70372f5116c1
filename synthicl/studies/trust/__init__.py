"""``trust``: when not to trust TabICL: calibration, conformal sets, and images unlike the training set."""

from synthicl.studies.study import Study
from synthicl.studies.trust.compute import trust
from synthicl.studies.trust.show import figures, finding, tables

TRUST = Study("trust", "When not to trust a prediction", trust, tables, figures, finding)
REGISTERED = {TRUST.name: TRUST}
