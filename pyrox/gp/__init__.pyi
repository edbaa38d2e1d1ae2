"""The names of `pyrox.gp`, in the order in which one uses them."""

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

from ._derivatives import Derivatives as Derivatives
from ._exact import GPPrior as GPPrior, ConditionedGP as ConditionedGP
from ._sparse import SparseGPPrior as SparseGPPrior
from ._guide import AbstractGuide as AbstractGuide
from ._families import DeltaGuide as DeltaGuide, FullRankGuide as FullRankGuide
from ._families import MeanFieldGuide as MeanFieldGuide, WhitenedGuide as WhitenedGuide

from ._pathwise import PathwiseSampler as PathwiseSampler
from ._pathwise import DecoupledPathwiseSampler as DecoupledPathwiseSampler
from ._path import PathwiseFunction as PathwiseFunction
from ._diagnose import diagnose as diagnose, Diagnosis as Diagnosis
from ._acquisition import expected_improvement as expected_improvement
from ._acquisition import log_expected_improvement as log_expected_improvement
from ._acquisition import probability_of_improvement as probability_of_improvement
from ._acquisition import confidence_bound as confidence_bound

from ._numpyro import gp_factor as gp_factor, gp_sample as gp_sample
from ._numpyro import svgp_factor as svgp_factor, gp_derivatives as gp_derivatives
from ._priors import sample_hyperparameters as sample_hyperparameters
from ._priors import site_names as site_names, substitute as substitute
from ._marginal import paths_over_draws as paths_over_draws
from ._marginal import PathwiseEnsemble as PathwiseEnsemble

from ._fit import fit as fit
from ._fit_report import Fit as Fit
from ._sensitivity import Sensitivity as Sensitivity, sensitivity as sensitivity
from ._log_joint import model_log_joint as model_log_joint
