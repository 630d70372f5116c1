"""The optimised tensors and how they are decoded to images."""

from synthicl.synthetic.pyramid import SyntheticPyramid

__all__ = ["SyntheticPyramid"]
