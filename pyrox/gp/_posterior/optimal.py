"""The optimal q(u) for Gaussian noise, in closed form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Real

from .._hyper.checks import as_noise, as_values, common_dtype
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .collapsed import collapsed
from .families import WhitenedGuide
from .guide import ready, sparse_checked
from .sparse import SparseGPPrior, of_one_dtype


def optimal_guide(
    prior: SparseGPPrior,
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."],
    name: str = "",
) -> WhitenedGuide:
    """The guide of the highest evidence lower bound for y = f(X) + e, e ~ N(0,
    noise_var), in closed form: no training.

    Its `elbo` is `prior.log_marginal_bound(X, y, noise_var)`.

    Args:
        prior: the process and its inducing inputs.
        X: the inputs of all data.
        y: their values.
        noise_var: variance of the noise, () or (N,).
        name: the prefix of its NumPyro parameters, its class's name if empty.

    Returns:
        A `WhitenedGuide`, of the widest float type that came.

    Raises:
        ValueError: shapes that do not fit, NaN or inf, noise that is not positive, a
            covariance of Z without a factor.

    Cost: O((N + M) M^2), and N M kernel values.

    Source: Titsias 2009, "Variational learning of inducing variables in sparse Gaussian
        processes", eq. 10.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, SparseGPPrior, optimal_guide
        >>> X = jnp.linspace(0, 1, 30)[:, None]
        >>> y = jnp.sin(9 * X[:, 0])
        >>> prior = SparseGPPrior(RBF(1.0, 0.3), Z=X[::4])
        >>> guide = optimal_guide(prior, X, y, 0.01)
        >>> mean, var = guide.predict(prior, X)
        >>> bool(abs(mean - y).max() < 0.1)
        True
    """
    call = "optimal_guide"
    prior = ready(call, prior)
    X = as_inputs_of(prior.kernel, f"{call}(X=...)", X, prior.Z.shape[1])
    n = X.shape[0]
    y = as_values(f"{call}(y=...)", y, n)
    noise_var = as_noise(f"{call}(noise_var=...)", noise_var, n)
    dtype = common_dtype(prior.Z, X, y, noise_var)
    data = jax.tree.map(lambda leaf: leaf.astype(dtype), (X, y, noise_var))
    mean, root = sparse_checked(prior, _optimum(prior, *data))
    return WhitenedGuide(mean, root, name)


@jit
def _optimum(
    prior: SparseGPPrior, X: Array, y: Array, noise_var: Array
) -> tuple[tuple[Array, Array], Bool[Array, ""]]:
    prior, X = of_one_dtype(prior, X)
    inducing = prior.inducing()
    p = prior.project(inducing, X)
    found = collapsed(p.explained, p.left, y - p.mean, noise_var)
    return (found.mean, jnp.tril(found.root)), inducing.factor.succeeded()
