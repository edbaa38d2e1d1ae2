"""One posterior of many processes: each computes its part of every product with K.

On one machine, two processes that each have some of its cores, in two shells:

    python examples/distributed.py --coordinator=127.0.0.1:9911 --processes=2 --id=0
    python examples/distributed.py --coordinator=127.0.0.1:9911 --processes=2 --id=1

On a cluster of GPUs under SLURM, one process for each GPU, here 4 nodes of 8:

    srun --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 python examples/distributed.py

There `jax.distributed.initialize` finds the coordinator, the number of processes and
which one this is by itself, and the mesh has all 32 GPUs. With `--processes=1` the
script runs alone, on all devices it sees.

Every process runs the same program on the same data, so what it reads and every seed
must be the same in each. If one dies the others end with an error: it counts as dead
when no heartbeat has come for TIME_LIMIT seconds, and as long again is what they may
take to end. It is JAX 0.9 that can be told so.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from pyrox.gp import ConjugateGradients, GPPrior, Matern, PathwiseSampler

TIME_LIMIT = 20  # seconds until a process that is silent counts as dead


def main() -> None:
    options = parsed()
    join(options)
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    say(f"{jax.process_count()} processes, {mesh.size} devices, {options.n} data")

    X, y = data(options.seed, options.n)
    prior = GPPrior(Matern(2.5, 1.0, 0.3), X)
    solver = ConjugateGradients(tolerance=options.tolerance, mesh=mesh)
    posterior = prior.condition(y, 0.09, solver=solver)
    say(f"the mean: {posterior.convergence}")

    paths = PathwiseSampler(posterior).sample_paths(jax.random.key(options.seed), 4)
    say(f"the paths: {paths.convergence}")
    points = jnp.linspace(0, 1, 5)[:, None] * jnp.ones((1, X.shape[1]))
    values = jnp.concatenate([posterior.predict_mean(points)[None, :], paths(points)])
    names = "mean", "path-0", "path-1", "path-2", "path-3"
    for name, row in zip(names, np.asarray(values), strict=True):
        say(name, *(f"{value:.6f}" for value in row))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coordinator", help="address and port of process 0")
    parser.add_argument("--processes", type=int, help="how many; 1: only this one")
    parser.add_argument("--id", type=int, help="which one this is, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of data and paths")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="of the solver")
    parser.add_argument("--n", type=int, default=20_000, help="number of data")
    return parser.parse_args()


def join(options: argparse.Namespace) -> None:
    """This process and the others; what is not given, the cluster says."""
    if options.processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        options.coordinator,
        options.processes,
        options.id,
        heartbeat_timeout_seconds=TIME_LIMIT,
        shutdown_timeout_seconds=TIME_LIMIT,
    )


def data(seed: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Noisy values of a smooth function of three inputs, the same in each process."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, 3))
    y = np.sin(6 * X[:, 0]) + X[:, 1] * X[:, 2] + rng.normal(0, 0.3, n)
    return jnp.asarray(X), jnp.asarray(y)


def say(*words: object) -> None:
    if jax.process_index() == 0:
        print(*words, flush=True)


if __name__ == "__main__":
    main()
