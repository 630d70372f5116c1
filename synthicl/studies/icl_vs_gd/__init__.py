"""``icl-vs-gd``: whether TabICL predicts what a linear probe predicts after some steps of gradient descent."""

from synthicl.studies.icl_vs_gd.compute import icl_vs_gd
from synthicl.studies.icl_vs_gd.show import figures, finding, tables
from synthicl.studies.study import Study

ICL_VS_GD = Study("icl-vs-gd", "Is it gradient descent?", icl_vs_gd, tables, figures, finding)
REGISTERED = {ICL_VS_GD.name: ICL_VS_GD}
