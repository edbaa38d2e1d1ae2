"""The log joint density of a NumPyro model as a function of its draws and its data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from numpyro import handlers
from numpyro.infer.util import log_density


def model_log_joint(model: Callable) -> "ModelLogJoint":
    """The log joint density of a NumPyro model, for `sensitivity`.

    Eta are the arguments of the model: a dict of those given by name, or a tuple. The
    draws give its latent sites their values. Deterministic sites are computed anew from
    these and eta, in the log joint as for the functional: `theta["f"]` of `gp_sample`
    moves with the inputs.

    Args:
        model: a NumPyro model, its observed values among its arguments.

    Returns:
        A function of (theta, eta).

    Raises:
        ValueError: when called, draws that lack a latent site of the model.

    Example:
        >>> import numpyro
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import model_log_joint
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
        ...     numpyro.sample("obs", dist.Normal(mu, 1), obs=y)
        >>> print(f"{model_log_joint(model)({'mu': 0.5}, {'y': 1.0}):.3f}")
        -2.088
    """
    return ModelLogJoint(model)


@dataclasses.dataclass(frozen=True)
class ModelLogJoint:
    """What `model_log_joint` returns."""

    model: Callable

    def __call__(self, theta: Mapping[str, Any], eta: Any) -> Any:
        return self._density(theta, eta)[0]

    def sites(self, theta: Mapping[str, Any], eta: Any) -> dict[str, Any]:
        """`theta` with its deterministic sites at this eta."""
        _, trace = self._density(theta, eta)
        names = {n for n, site in trace.items() if site["type"] == "deterministic"}
        return {n: trace[n]["value"] if n in names else theta[n] for n in theta}

    def _density(self, theta: Mapping[str, Any], eta: Any) -> tuple[Any, Any]:
        def value(site):
            # Not `substitute(data=theta)`: that would freeze deterministic sites at the
            # draw's values, which moved with eta, and put draws in place of data.
            name = site["name"]
            if site["type"] == "param":
                return theta.get(name)
            if site["type"] != "sample" or site["is_observed"]:
                return None
            if name not in theta:
                raise ValueError(
                    f"`model_log_joint(model)`: the model has a latent site {name!r}, "
                    f"of which there are no draws. Got draws of {sorted(theta)}. Pass "
                    "`mcmc.get_samples()` of this very model."
                )
            return theta[name]

        args, kwargs = (), {}
        if isinstance(eta, Mapping):
            kwargs = dict(eta)
        else:
            args = eta if isinstance(eta, tuple) else (eta,)
        model = handlers.substitute(self.model, substitute_fn=value)
        return log_density(model, args, kwargs, {})
