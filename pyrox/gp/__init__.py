"""Gaussian-process posteriors as functions, in the order in which one uses them."""

# ruff: isort: skip_file
from ._kernel import AbstractKernel as AbstractKernel
from ._stationary import RBF as RBF, RationalQuadratic as RationalQuadratic
from ._matern import Matern as Matern
from ._periodic import Periodic as Periodic, Cosine as Cosine
from ._spectral_mixture import SpectralMixture as SpectralMixture
from ._polynomial import Linear as Linear, Polynomial as Polynomial
from ._constant import Constant as Constant, White as White
from ._kernel import ActiveDims as ActiveDims, Product as Product
from ._kernel import Scale as Scale, Sum as Sum
from ._hyper import hyperparameter as hyperparameter
from ._features import AbstractFeatures as AbstractFeatures
from ._features import FourierFeatures as FourierFeatures
from ._basis import AbstractBasis as AbstractBasis, Sobol as Sobol, IID as IID
from ._basis import Orthogonal as Orthogonal
from ._grid import FourierGrid as FourierGrid
from ._landmarks import Landmarks as Landmarks
from ._check_kernel import check_kernel as check_kernel

from ._exact import GPPrior as GPPrior, ConditionedGP as ConditionedGP
from ._sparse import SparseGPPrior as SparseGPPrior
from ._guide import AbstractGuide as AbstractGuide
from ._families import DeltaGuide as DeltaGuide, FullRankGuide as FullRankGuide
from ._families import MeanFieldGuide as MeanFieldGuide, WhitenedGuide as WhitenedGuide

from ._pathwise import PathwiseSampler as PathwiseSampler
from ._pathwise import DecoupledPathwiseSampler as DecoupledPathwiseSampler
from ._path import PathwiseFunction as PathwiseFunction
from ._diagnose import diagnose as diagnose, Diagnosis as Diagnosis

from ._numpyro import gp_factor as gp_factor, gp_sample as gp_sample
from ._numpyro import svgp_factor as svgp_factor
from ._priors import sample_hyperparameters as sample_hyperparameters
from ._priors import site_names as site_names, substitute as substitute
from ._marginal import paths_over_draws as paths_over_draws
from ._marginal import PathwiseEnsemble as PathwiseEnsemble
