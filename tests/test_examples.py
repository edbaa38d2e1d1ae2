"""The examples run, and what they say holds. `distributed.py` has a file of its own."""

import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

FOLDER = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.exhaustive
def test_drifters_end_where_their_flows_take_them(tmp_path, capsys, x64):
    drifters = runpy.run_path(str(FOLDER / "drifters.py"))
    found = drifters["computed"](seed=0, n_paths=40)
    # A field that knows its law is nearer to the truth, and keeps it: what is left is
    # the error of differences, of second order in their step.
    known, apart = found.errors.values()
    assert known < 0.8 * apart and known < 0.1
    kept, broken = found.divergences.values()
    assert kept < 1e-3 < 0.05 < broken
    # Some flows take the drifter to either side, the true one being among them.
    west = found.ends[:, 0] < drifters["MIDDLE"]
    assert 0.1 < west.mean() < 0.9
    side = found.ends[west == (found.true_track[-1, 0] < drifters["MIDDLE"])]
    off = found.true_track[-1] - side.mean(axis=0)
    assert np.all(np.abs(off) < 3 * side.std(axis=0))
    drifters["tell"](found)
    assert "ends on the true flow" in capsys.readouterr().out
    drifters["draw"](tmp_path / "drifters.png", found)
    assert np.asarray(Image.open(tmp_path / "drifters.png").convert("L")).std() > 10


def test_a_drifter_keeps_its_stream_function(x64):
    """That of the true flow is the same all along its track."""
    drifters = runpy.run_path(str(FOLDER / "drifters.py"))
    start = drifters["RELEASE"][None, :]
    track = drifters["followed"](drifters["flow"], start)[:, 0]
    level = np.array([drifters["stream"](x) for x in track[::20]])
    assert np.ptp(track, axis=0).min() > 0.5
    assert np.ptp(level) < 1e-6 * 0.35
