"""pyrox turns Gaussian-process posteriors into functions."""

from importlib.metadata import version

from . import gp as gp

__version__ = version("pyrox-gp")
