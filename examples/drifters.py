"""Where does a drifter end? Currents learnt from velocities at scattered places.

    python examples/drifters.py --out=drifters.png

Water that neither wells up nor sinks has a velocity without divergence, and so does
every function drawn here: a path is one flow that the data allow, the same at all
times and places, so a drifter can be followed along it. Where it ends, path by path, is
the answer with its uncertainty: not a place with a spread about it, but two eddies and
the odds of each. The flow of the posterior mean, one line, has no word of that.

The data are made: a known stream function, of eddies side by side in a part of the sea
of 400 by 200 km, and noise on its velocities. Lengths are in 100 km, times in days.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrox import plot
from pyrox.gp import (
    RBF,
    DivergenceFree,
    GPPrior,
    MultiOutputGP,
    MultiOutputPrior,
    MultiOutputSampler,
    PathwiseSampler,
    fit,
)

WIDTH, HEIGHT = 4.0, 2.0
MIDDLE = WIDTH / 2  # west of it one eddy, east of it the other
RELEASE = np.array([1.97, 0.3])
SHOWN = 1.15 * HEIGHT  # of the picture: drifters may leave the region of the data
N_DATA, NOISE_SD = 40, 0.05
N_DAYS, N_STEPS = 7.0, 140

# From places to velocities there.
Velocity = Callable[[Any], jax.Array]


class Found(NamedTuple):
    """What the data say: flows, and where the drifter goes in each."""

    X: np.ndarray  # (N, 2) places
    Y: np.ndarray  # (N, 2) velocities there, with noise
    posterior: MultiOutputGP
    tracks: np.ndarray  # (S, T, 2) of the drifter along each path,
    track_of_mean: np.ndarray  # (T, 2) along the posterior mean,
    true_track: np.ndarray  # (T, 2) and along the flow that made the data
    errors: dict[str, float]  # of the mean velocity, root mean square
    divergences: dict[str, float]  # of the paths, root mean square

    @property
    def ends(self) -> np.ndarray:
        return self.tracks[:, -1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("drifters.png"))
    parser.add_argument("--paths", type=int, default=200, help="how many flows")
    parser.add_argument("--seed", type=int, default=0, help="of data and paths")
    options = parser.parse_args(arguments)
    with jax.enable_x64(True):
        found = computed(options.seed, options.paths)
        draw(options.out, found)
    tell(found)
    print(f"wrote {options.out}")


def computed(seed: int, n_paths: int) -> Found:
    X, Y = data(seed)
    keys = jax.random.split(jax.random.key(seed), 2)
    posterior = learnt(X, Y)
    # Drifters may leave the region of the data: frequencies that are right everywhere.
    sampler = MultiOutputSampler(posterior, 1024, basis="sobol")
    paths = sampler.sample_paths(keys[0], n_paths)

    grid = places(24)
    mean_of_two, paths_of_two = one_by_one(X, Y, keys[1], n_paths)
    errors = {
        "without divergence": rms(posterior.predict_mean(grid) - flow(grid)),
        "component by component": rms(mean_of_two(grid) - flow(grid)),
    }
    divergences = {
        "without divergence": rms(divergence(paths, grid)),
        "component by component": rms(divergence(paths_of_two, grid)),
    }

    start = jnp.asarray(RELEASE)[None, :]
    together = jnp.tile(start, (n_paths, 1, 1))
    tracks = np.swapaxes(followed(paths.each, together)[:, :, 0], 0, 1)
    of_mean = followed(posterior.predict_mean, start)[:, 0]
    true = followed(flow, start)[:, 0]
    return Found(X, Y, posterior, tracks, of_mean, true, errors, divergences)


def stream(x: jax.Array) -> jax.Array:
    """The stream function that makes the data: two eddies side by side, which turn
    against each other, and a small one at the side of the western."""
    pair = jnp.sin(2 * np.pi * x[0] / WIDTH) * jnp.sin(np.pi * x[1] / HEIGHT)
    small = jnp.exp(-((x[0] - 1.1) ** 2 + (x[1] - 1.3) ** 2) / (2 * 0.35**2))
    return 0.35 * pair + 0.1 * small


def flow(X: Any) -> jax.Array:
    """Its velocities: (d stream / dy, -d stream / dx)."""
    slopes = jax.vmap(jax.grad(stream))(jnp.asarray(X))
    return jnp.stack([slopes[:, 1], -slopes[:, 0]], axis=1)


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(N_DATA, 2)) * np.array([WIDTH, HEIGHT])
    return X, np.asarray(flow(X)) + NOISE_SD * rng.normal(size=X.shape)


def learnt(X: np.ndarray, Y: np.ndarray) -> MultiOutputGP:
    """The posterior over velocities, with the potential's variance and lengthscale and
    the noise of the highest density."""
    prior = MultiOutputPrior(DivergenceFree(RBF(0.1, 1.0)), X, n_outputs=2)
    found = fit(*prior.stack(Y, noise_var=0.01), progress=False)
    kernel = found.prior.kernel
    return MultiOutputPrior(kernel, X, n_outputs=2).condition(Y, found.noise_var)


def one_by_one(
    X: np.ndarray, Y: np.ndarray, key: jax.Array, n_paths: int
) -> tuple[Velocity, Velocity]:
    """Two processes that know nothing of each other, one for each component: their mean
    velocity, and paths."""
    found = [
        fit(GPPrior(RBF(0.1, 1.0), X), values, 0.01, progress=False) for values in Y.T
    ]
    pairs = zip(found, Y.T, strict=True)
    posteriors = [f.prior.condition(values, f.noise_var) for f, values in pairs]
    paths = [
        PathwiseSampler(posterior, 1024).sample_paths(own, n_paths)
        for posterior, own in zip(posteriors, jax.random.split(key), strict=True)
    ]
    return (
        lambda X: jnp.stack([p.predict_mean(X) for p in posteriors], axis=-1),
        lambda X: jnp.stack([functions(X) for functions in paths], axis=-1),
    )


def divergence(velocity: Velocity, X: np.ndarray) -> jax.Array:
    """By differences over two kilometres."""
    h = 0.01
    ahead = [
        velocity(X + h * axis)[..., d] - velocity(X - h * axis)[..., d]
        for d, axis in enumerate(np.eye(2))
    ]
    return (ahead[0] + ahead[1]) / (2 * h)


def followed(velocity: Velocity, start: jax.Array) -> np.ndarray:
    """Places at N_STEPS + 1 times, along the first axis: Runge-Kutta of order four."""
    h = N_DAYS / N_STEPS

    def step(x, _):
        k1 = velocity(x)
        k2 = velocity(x + h / 2 * k1)
        k3 = velocity(x + h / 2 * k2)
        k4 = velocity(x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x, x

    run = jax.jit(lambda x: jax.lax.scan(step, x, length=N_STEPS)[1])
    return np.concatenate([start[None], run(start)])


def places(n: int) -> np.ndarray:
    """A grid of the region with n points from west to east."""
    x, y = np.linspace(0, WIDTH, n), np.linspace(0, HEIGHT, n // 2)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def rms(values: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(values**2)))


def tell(found: Found) -> None:
    for what, numbers in (
        ("error of the mean velocity", found.errors),
        ("divergence of paths", found.divergences),
    ):
        for model, number in numbers.items():
            print(f"{what}, {model}: {number:.2g}")
    west = found.ends[:, 0] < MIDDLE
    for side, ends in ("west", found.ends[west]), ("east", found.ends[~west]):
        share = len(ends) / len(found.ends)
        print(f"ends {side} of the middle: {share:.0%} of {len(found.ends)} flows")
    print("ends on the mean flow:", *found.track_of_mean[-1].round(2))
    print("ends on the true flow:", *found.true_track[-1].round(2))


def draw(path: Path, found: Found) -> None:
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_flow(left, found)
    _draw_tracks(right, found)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "frameon": False}
    for ax in (left, right):
        ax.set(aspect="equal", xlim=(0, WIDTH), ylim=(0, SHOWN))
        ax.set_xlabel("east, 100 km")
        ax.legend(ncols=2, fontsize=8, **below)
    left.set_ylabel("north, 100 km")
    figure.savefig(path, dpi=160, bbox_inches="tight")


def _draw_flow(ax: Axes, found: Found) -> None:
    x, y = np.linspace(0, WIDTH, 48), np.linspace(0, SHOWN, 28)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    mean = np.asarray(found.posterior.predict_mean(grid.reshape(-1, 2)))
    u, v = np.moveaxis(mean.reshape(grid.shape), -1, 0)
    style = {"color": plot.BLUE, "linewidth": 0.6}
    ax.streamplot(x, y, u, v, arrowsize=0.6, density=1.1, **style)
    ax.plot([], [], label="posterior mean, without divergence", **style)
    style = {"color": plot.INK, "zorder": 3}
    ax.quiver(*found.X.T, *found.Y.T, width=0.006, **style)
    arrow = {"marker": r"$\rightarrow$", "linestyle": ""}
    ax.plot([], [], label="measured, with noise", **arrow, **style)
    ax.set_title(f"Velocities at {len(found.X)} places and a flow", fontsize=10)


def _draw_tracks(ax: Axes, found: Found) -> None:
    for track in found.tracks:
        ax.plot(*track.T, color=plot.BLUE, linewidth=0.4, alpha=0.15)
    label = f"after {N_DAYS:.0f} days, on {len(found.ends)} flows"
    ax.plot(*found.ends.T, ".", color=plot.BLUE, markersize=3, label=label)
    ax.plot(*found.track_of_mean.T, "--", color=plot.INK, label="on the mean flow")
    ax.plot(*found.true_track.T, color=plot.VERMILION, label="on the true flow")
    for track, color in (
        (found.track_of_mean, plot.INK),
        (found.true_track, plot.VERMILION),
    ):
        ax.plot(*track[-1], "o", color=color, markersize=5, zorder=4)
    ax.plot(*RELEASE, "*", color=plot.INK, markersize=10, zorder=4, label="released")
    west = (found.ends[:, 0] < MIDDLE).mean()
    ax.set_title(
        f"Where a drifter ends: west {west:.0%}, east {1 - west:.0%}",
        fontsize=10,
    )


if __name__ == "__main__":
    main()
