"""What pyproject.toml cannot say: ``configs/`` lies at the top of the repository and in the package of a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["synthicl*"]), "synthicl.configs"],
    package_dir={"synthicl.configs": "configs"},
)
