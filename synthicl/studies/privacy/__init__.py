"""``privacy``: how near are the synthetic images to single training images, and do they tell who was trained on?"""

from synthicl.studies.privacy.compute import privacy
from synthicl.studies.privacy.show import figures, finding, tables
from synthicl.studies.study import Study

PRIVACY = Study("privacy", "What the images tell about the training images", privacy, tables, figures, finding)
REGISTERED = {PRIVACY.name: PRIVACY}
