"""``transfer``: synthetic images that were distilled with one backbone, seen by others."""

from synthicl.studies.study import Study
from synthicl.studies.transfer.compute import transfer
from synthicl.studies.transfer.show import figures, finding, tables

TRANSFER = Study("transfer", "Transfer to other backbones", transfer, tables, figures, finding)
REGISTERED = {TRANSFER.name: TRANSFER}
