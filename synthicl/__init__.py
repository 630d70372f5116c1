"""synthicl: distil a labelled image dataset into a few synthetic images for in-context classification."""

__version__ = "0.1.0"
