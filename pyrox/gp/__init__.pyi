"""The names of `pyrox.gp`, in the order in which one uses them."""

# ruff: isort: skip_file
from ._kernels.kernel import AbstractKernel as AbstractKernel
from ._kernels.stationary import RBF as RBF, RationalQuadratic as RationalQuadratic
from ._kernels.matern import Matern as Matern
from ._kernels.periodic import Periodic as Periodic, Cosine as Cosine
from ._kernels.spectral_mixture import SpectralMixture as SpectralMixture
from ._kernels.polynomial import Linear as Linear, Polynomial as Polynomial
from ._kernels.constant import Constant as Constant, White as White
from ._kernels.active_dims import ActiveDims as ActiveDims
from ._kernels.coregionalization import Coregionalization as Coregionalization
from ._kernels.vector_fields import DivergenceFree as DivergenceFree
from ._kernels.vector_fields import CurlFree as CurlFree
from ._kernels.kernel import Product as Product, Scale as Scale, Sum as Sum
from ._hyper.parameters import hyperparameter as hyperparameter
from ._features.maps import AbstractFeatures as AbstractFeatures
from ._features.maps import FourierFeatures as FourierFeatures
from ._features.basis import AbstractBasis as AbstractBasis, Sobol as Sobol, IID as IID
from ._features.basis import Orthogonal as Orthogonal
from ._features.grid import FourierGrid as FourierGrid
from ._kernels.landmarks import Landmarks as Landmarks
from ._kernels.contract import check_kernel as check_kernel

from ._solvers.solver import Cholesky as Cholesky
from ._solvers.solver import ConjugateGradients as ConjugateGradients
from ._solvers.solver import StochasticDualDescent as StochasticDualDescent
from ._solvers.convergence import Convergence as Convergence
from ._posterior.derivatives import Derivatives as Derivatives
from ._posterior.mean import ConstantMean as ConstantMean
from ._posterior.exact import GPPrior as GPPrior, ConditionedGP as ConditionedGP
from ._posterior.leave_one_out import leave_one_out as leave_one_out
from ._posterior.latent import latent as latent
from ._posterior.latent import LatentPosterior as LatentPosterior
from ._posterior.outputs import MultiOutputPrior as MultiOutputPrior
from ._posterior.outputs import MultiOutputGP as MultiOutputGP
from ._posterior.sparse import SparseGPPrior as SparseGPPrior
from ._kernels.inducing import init_inducing as init_inducing
from ._posterior.guide import AbstractGuide as AbstractGuide
from ._posterior.families import DeltaGuide as DeltaGuide
from ._posterior.families import FullRankGuide as FullRankGuide
from ._posterior.families import MeanFieldGuide as MeanFieldGuide
from ._posterior.families import WhitenedGuide as WhitenedGuide
from ._posterior.natural_guide import NaturalGuide as NaturalGuide
from ._posterior.optimal import optimal_guide as optimal_guide
from ._posterior.several import elbo_of_several as elbo_of_several

from ._paths.samplers import PathwiseSampler as PathwiseSampler
from ._paths.samplers import DecoupledPathwiseSampler as DecoupledPathwiseSampler
from ._paths.path import PathwiseFunction as PathwiseFunction
from ._paths.outputs import MultiOutputSampler as MultiOutputSampler
from ._paths.outputs import MultiOutputPaths as MultiOutputPaths
from ._hyper.unchecked import unchecked as unchecked
from ._paths.certificate import diagnose as diagnose, Diagnosis as Diagnosis
from ._decisions.acquisition import expected_improvement as expected_improvement
from ._decisions.acquisition import log_expected_improvement as log_expected_improvement
from ._decisions.acquisition import (
    probability_of_improvement as probability_of_improvement,
)
from ._decisions.acquisition import confidence_bound as confidence_bound

from ._calibration.scores import crps as crps, log_score as log_score
from ._calibration.scores import energy_score as energy_score
from ._calibration.scores import variogram_score as variogram_score
from ._calibration.coverage import pit as pit
from ._calibration.coverage import interval_coverage as interval_coverage
from ._calibration.coverage import Intervals as Intervals

from ._inference.factors import gp_factor as gp_factor, gp_sample as gp_sample
from ._inference.condition import gp_condition as gp_condition
from ._inference.sparse_factor import svgp_factor as svgp_factor
from ._inference.factors import gp_derivatives as gp_derivatives
from ._inference.surrogate import surrogate_factor as surrogate_factor
from ._inference.surrogate import surrogate_sample as surrogate_sample
from ._hyper.priors import sample_hyperparameters as sample_hyperparameters
from ._hyper.priors import site_names as site_names, substitute as substitute
from ._paths.ensemble import paths_over_draws as paths_over_draws
from ._paths.ensemble import PathwiseEnsemble as PathwiseEnsemble

from ._inference.fit import fit as fit
from ._inference.fit_report import Fit as Fit
from ._inference.iterative_fit import IterativeFit as IterativeFit
from ._inference.latent_fit import fit_latent as fit_latent
from ._inference.latent_fit import LatentFit as LatentFit
from ._inference.sparse_fit import fit_sparse as fit_sparse
from ._inference.sparse_report import SparseFit as SparseFit
from ._inference.observation import (
    log_predictive_density as log_predictive_density,
)
from ._inference.observation import predict_observation as predict_observation
from ._inference.observation import Observation as Observation
from ._inference.sensitivity import Sensitivity as Sensitivity
from ._inference.sensitivity import sensitivity as sensitivity
from ._inference.log_joint import model_log_joint as model_log_joint

from ._numerics.measures import LebesgueMeasure as LebesgueMeasure
from ._numerics.measures import GaussianMeasure as GaussianMeasure
from ._functionals.expectation import expectation as expectation
from ._functionals.expectation import Expectation as Expectation
from ._functionals.quadrature import bayesian_quadrature as bayesian_quadrature
from ._functionals.quadrature import Quadrature as Quadrature
from ._functionals.path_integrals import integrate_paths as integrate_paths
from ._functionals.path_integrals import line_integrals as line_integrals
from ._functionals.laplacian import laplacian as laplacian
from ._functionals.crossings import crossings as crossings, Crossings as Crossings
from ._functionals.excursion import excursion_probability as excursion_probability
from ._functionals.excursion import contour_uncertainty as contour_uncertainty
from ._functionals.excursion import excursion_volume as excursion_volume
from ._functionals.vorobev import vorobev_expectation as vorobev_expectation
from ._functionals.vorobev import VorobevSet as VorobevSet
from ._functionals.dynamics import roll_out as roll_out, RollOut as RollOut
from ._functionals.dynamics import policy_value as policy_value

from ._decisions.optimize_paths import optimize_paths as optimize_paths
from ._decisions.optima import PathOptima as PathOptima
from ._decisions.trade_offs import optimize_trade_offs as optimize_trade_offs
from ._decisions.trade_offs import TradeOffs as TradeOffs
from ._decisions.pareto import pareto_front as pareto_front
from ._decisions.trust_region import TrustRegion as TrustRegion
from ._decisions.optimize_acquisition import (
    optimize_acquisition as optimize_acquisition,
)
from ._decisions.optimize_acquisition import BatchOptimum as BatchOptimum
from ._decisions.entropy import max_value_entropy as max_value_entropy
from ._decisions.entropy import joint_entropy as joint_entropy
from ._decisions.knowledge import knowledge_gradient as knowledge_gradient
from ._decisions.design import (
    integrated_variance_reduction as integrated_variance_reduction,
)
from ._decisions.design import expected_information_gain as expected_information_gain
from ._decisions.design import nested_information_gain as nested_information_gain
from ._decisions.disagreement import bald as bald
from ._decisions.greedy import greedy_batch as greedy_batch
from ._decisions.thompson import ThompsonSampling as ThompsonSampling
from ._decisions.thompson_state import ThompsonState as ThompsonState

from ._records.files import load as load, save as save
from ._records.summary import summary as summary, Summary as Summary
