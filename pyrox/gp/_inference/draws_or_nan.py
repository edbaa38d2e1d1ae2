"""Normal distributions whose draws are NaN if what they stand for does not exist: a
factor of `-inf` guards densities, but whoever only draws ignores factors."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float


class Standard(dist.Normal):
    """Standard normals."""

    pytree_data_fields = ("exists",)

    def __init__(self, zeros: Float[Array, " N"], exists: Array):
        self.exists = exists
        super().__init__(zeros, 1)

    def sample(self, key, sample_shape=()):
        return jnp.where(self.exists, super().sample(key, sample_shape), jnp.nan)


class Joint(dist.MultivariateNormal):
    """Normals of a mean and a lower-triangular root of the covariance."""

    pytree_data_fields = ("exists",)

    def __init__(
        self, mean: Float[Array, " N"], lower: Float[Array, "N N"], exists: Array
    ):
        self.exists = exists
        super().__init__(mean, scale_tril=lower)

    def sample(self, key, sample_shape=()):
        return jnp.where(self.exists, super().sample(key, sample_shape), jnp.nan)
