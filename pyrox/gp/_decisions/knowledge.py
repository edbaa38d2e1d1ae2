"""Knowledge gradient: by how much an observation moves the best that is known."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from .._hyper.checks import as_inputs
from .._numerics.lines import expected_rise
from .._posterior.exact import ConditionedGP
from .asked import as_posterior, noise_of, sign_of


def knowledge_gradient(
    posterior: ConditionedGP,
    X: Real[ArrayLike, "N D"],
    over: Real[ArrayLike, "C D"],
    *,
    noise_var: Real[ArrayLike, "..."],
    maximize: bool = False,
) -> Float[Array, " N"]:
    """By how much the best posterior mean is expected to gain by an observation at x;
    to be maximised.

    Now the best is the least mean among the points of `over`, afterwards the least
    among them and x: min mean(z) - E[min mean(z | y at x)]. To look where it is highest
    is the best that can be done with one more observation before choosing among those
    points. It is worth something wherever f at x says something of f elsewhere, also
    where x itself is no candidate for the optimum. With the optimum of the mean in
    `over` all of it is what the observation tells; without, x also has what its mean
    is better by.

    The mean after an observation is linear in it, so the expectation is that of the
    lowest of C + 1 lines at a normal place, which is computed exactly: no fantasies are
    drawn.

    Args:
        posterior: what is known.
        X: points, one row each.
        over: where the optimum is looked for: the data, `found.X` of `optimize_paths`,
            all choices, or some tens of points that fill the box; and the optimum of
            the posterior mean.
        noise_var: variance of the noise of the observation, one or one for each point;
            the posterior's jitter is added, as to the data.
        maximize: whether a larger f is better; then it is E[max] - max.

    Returns:
        One value for each point, in the units of f, not negative but for rounding.

    Raises:
        ValueError: another posterior, points of another D, noise that is not positive;
            and all that `posterior.predict(X)` raises.

    Cost: that of `posterior.predict_cov(X, over)`, and O(N C^2), in blocks.

    Source: Frazier, Powell & Dayanik 2009 (INFORMS Journal on Computing 21); with x
        among the points Scott, Frazier & Powell 2011 (SIAM Journal on Optimization 21),
        who count it among those of now as well, which leads elsewhere; as here Wu &
        Frazier 2016, arXiv 1606.04414.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, knowledge_gradient
        >>> X, y = jnp.array([[0.0], [0.5], [1.0]]), jnp.array([1.0, -1.0, 0.5])
        >>> posterior = GPPrior(RBF(1.0, 0.2), X).condition(y, noise_var=0.01)
        >>> grid = jnp.linspace(0, 1, 101)[:, None]
        >>> values = knowledge_gradient(posterior, grid, grid[::5], noise_var=0.01)
        >>> bool(0.5 < grid[jnp.argmax(values), 0] < 0.8)
        True
    """
    call = "knowledge_gradient"
    sign = sign_of(call, maximize)
    posterior = as_posterior(call, posterior)
    mean, var = posterior.predict(X)
    over = as_inputs(f"{call}(over=...)", over, posterior.X.shape[1])
    noise_var = noise_of(call, posterior, noise_var, mean.shape[0])
    elsewhere = posterior.predict_mean(over)
    cov = posterior.predict_cov(X, over)
    parts = sign * mean, var, noise_var, sign * elsewhere, cov
    return _expected_gain(*(part.astype(cov.dtype) for part in parts))


@jax.jit
def _expected_gain(
    mean: Float[Array, " N"],
    var: Float[Array, " N"],
    noise_var: Float[Array, " N"],
    elsewhere: Float[Array, " C"],
    cov: Float[Array, "N C"],
) -> Float[Array, " N"]:
    """Of f that is maximised."""
    means = jnp.broadcast_to(elsewhere[None, :], cov.shape)
    a = jnp.concatenate([means, mean[:, None]], axis=1)
    b = jnp.concatenate([cov, var[:, None]], axis=1)
    # By these the means move with the standardised surprise of the observation.
    rise = expected_rise(a, b / jnp.sqrt(var + noise_var)[:, None])
    # Above the best of all lines; x is not among those of now. The sum is smooth.
    return rise + jax.nn.relu(mean - elsewhere[jnp.argmax(elsewhere)])
