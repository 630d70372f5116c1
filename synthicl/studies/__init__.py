"""What is asked of context sets: a study is a folder here, with what it computes and what it shows.

Its ``__init__.py`` puts a `Study` into ``REGISTERED`` under the study's name; other packages register theirs as entry
points of the group ``synthicl.studies``.
"""

from synthicl.core.registry import Registry, instance_of
from synthicl.studies.study import Study

STUDIES: Registry[Study] = Registry(__name__, "synthicl.studies", "study", "a Study", instance_of(Study))
