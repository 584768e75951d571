from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from search_env.agents.reporting.logs import JsonLinesLog, read_log
from search_env.agents.reporting.plots import COLOURS, average, learning_figure, training_figure
from search_env.errors import ConfigurationError, DataNotFoundError
from search_env.metrics.statistics import t_quantile


def write_run(path, values, *, name="reward/mean", evaluations=(), seconds=60.0, **more):
    """A log whose n-th step took until n times ``seconds``."""
    log = JsonLinesLog(path)
    log.begin(len(values), {})
    for step, value in enumerate(values, start=1):
        log.step(step, {name: value, **more}, [])
    for step, value in evaluations:
        log.evaluated(step, {"eval/exact_match": value})
    log.end(len(values), "done")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        line["elapsed"] = line["step"] * seconds
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


FULL = {
    "reward/f1": 0.4,
    "reward/format": 0.1,
    "reward/group_std": 0.2,
    "groups/zero_variance": 0.1,
    "policy/entropy": 0.4,
    "policy/kl": 0.01,
    "policy/grad_norm": 1.0,
    "policy/drift_max": 1e-6,
    "policy/drift_mean": 0.0,
    "search/rate": 0.9,
    "search/mean": 1.5,
    "format/well_formed": 1.0,
    "answer/exact_match": 0.5,
    "answer/f1": 0.6,
    "tokens/total": 1000.0,
    "time/step": 2.0,
    "time/decode": 1.0,
    "time/learn": 0.5,
}


def full_run(path, seed, steps=60):
    """Two phases, noise, an evaluation every ten steps."""
    random = np.random.default_rng(seed)
    log = JsonLinesLog(path)
    log.begin(steps, {})
    for step in range(1, steps + 1):
        noisy = {name: value * random.uniform(0.8, 1.2) for name, value in FULL.items()}
        log.step(step, {**noisy, "reward/mean": step / 100, "phase": 1.0 + (step > 20)}, [])
        if step % 10 == 0:
            log.evaluated(step, {"eval/exact_match": step / 100, "eval/f1": step / 90})
    log.end(steps, "done")
    return path


def test_the_mean_and_its_interval_are_those_of_the_book(tmp_path):
    finals = [0.2, 0.4, 0.3, 0.6, 0.5]
    runs = [read_log(write_run(tmp_path / f"{n}.jsonl", [0.0, v])) for n, v in enumerate(finals)]
    band = average(runs, "reward/mean")
    assert band.x.tolist() == [1, 2]
    assert band.mean == pytest.approx([0.0, 0.4])
    deviation = math.sqrt(sum((v - 0.4) ** 2 for v in finals) / 4)
    assert band.half == pytest.approx([0.0, 2.776 * deviation / math.sqrt(5)])


def test_runs_are_averaged_where_all_of_them_have_been(tmp_path):
    runs = [
        read_log(write_run(tmp_path / "long.jsonl", [1.0, 2.0, 3.0, 4.0, 5.0])),
        read_log(write_run(tmp_path / "short.jsonl", [3.0, 4.0, 5.0], seconds=120.0)),
        read_log(write_run(tmp_path / "other.jsonl", [0.0], name="loss")),
    ]
    by_step = average(runs, "reward/mean")
    assert by_step.x.tolist() == [1, 2, 3]
    assert by_step.mean.tolist() == [2, 3, 4]
    by_time = average(runs, "reward/mean", minutes=True)
    assert by_time.x[0] == 2.0, "the second run's first step ends after two minutes"
    assert by_time.x[-1] == 5.0, "the first run's last after five"
    # Then the first run is at 2 and at 5, the second at 3 and between 4 and 5.
    assert by_time.mean[[0, -1]] == pytest.approx([(2 + 3) / 2, (5 + 4.5) / 2])
    assert average(runs, "policy/kl") is None


def test_runs_measured_at_other_steps_are_interpolated(tmp_path):
    runs = [
        read_log(write_run(tmp_path / "a.jsonl", [0], evaluations=[(0, 0.0), (20, 0.4)])),
        read_log(
            write_run(tmp_path / "b.jsonl", [0], evaluations=[(0, 0.2), (10, 0.4), (30, 0.6)])
        ),
    ]
    band = average(runs, "eval/exact_match")
    assert band.x.tolist() == [0, 10, 20]
    assert band.mean == pytest.approx([0.1, (0.2 + 0.4) / 2, (0.4 + 0.5) / 2])


def test_one_run_has_no_interval(tmp_path):
    band = average([read_log(write_run(tmp_path / "a.jsonl", [1.0, 2.0]))], "reward/mean")
    assert band.half.tolist() == [0.0, 0.0]
    assert band.mean.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 10, 11, 15, 29, 100])
def test_t_quantiles_leave_two_and_a_half_per_cent(degrees):
    """Integrate Student's density beyond the quantile."""
    at = np.linspace(0.0, t_quantile(degrees), 200_001)
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2)
    density = scale / math.sqrt(degrees * math.pi) * (1 + at**2 / degrees) ** (-(degrees + 1) / 2)
    assert 0.5 - np.trapezoid(density, at) == pytest.approx(0.025, abs=1e-4)


def colours_of(path):
    """How many pixels have each of the lines' colours."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    wanted = [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[:3]]
    return [int((pixels == colour).all(axis=-1).sum()) for colour in wanted], pixels


def test_a_run_becomes_a_picture(tmp_path):
    log = full_run(tmp_path / "metrics.jsonl", 0)
    picture = tmp_path / "new" / "training.png"
    training_figure([log], picture)
    counts, pixels = colours_of(picture)
    assert min(counts) > 200, "lines are drawn in the palette's colours"
    height, width, _ = pixels.shape
    assert width / height == pytest.approx(12.6 / 8.7, rel=0.01), "nine panels, three in a row"
    assert (pixels == 255).all(axis=-1).mean() > 0.5


def test_several_seeds_become_a_band(tmp_path):
    logs = [full_run(tmp_path / f"{seed}.jsonl", seed) for seed in range(3)]
    training_figure(logs, tmp_path / "seeds.svg")
    text = (tmp_path / "seeds.svg").read_text("utf-8")
    assert text.count("FillBetweenPolyCollection") > 5
    assert "mean of 3 seeds, 95 % t interval; grey: phase 2 begins" in text


def test_supervised_runs_have_panels_of_their_own(tmp_path):
    log = write_run(
        tmp_path / "metrics.jsonl", [2.0, 1.0, 0.5], name="loss", **{"policy/grad_norm": 1.0}
    )
    training_figure([log], tmp_path / "loss.svg")
    text = (tmp_path / "loss.svg").read_text("utf-8")
    assert "<!-- loss -->" in text
    assert "<!-- gradient norm -->" in text
    assert "searches" not in text


def test_conditions_are_compared(tmp_path):
    runs = {
        name: [
            write_run(
                tmp_path / f"{name}{seed}.jsonl",
                [0.1 * seed, best],
                evaluations=[(1, 0.1), (2, best)],
                **{"answer/f1": best},
            )
            for seed in range(3)
        ]
        for name, best in (("both phases", 0.8), ("phase 2 alone", 0.2))
    }
    for minutes in (False, True):
        picture = tmp_path / f"compared-{minutes}.svg"
        learning_figure(runs, picture, minutes=minutes)
        text = picture.read_text("utf-8")
        for label in ("both phases (n = 3)", "phase 2 alone (n = 3)", "exact match, held out"):
            assert text.count(f"<!-- {label} -->") == 1
        assert ("<!-- minutes -->" in text) is minutes
    with pytest.raises(ConfigurationError, match=r"policy/kl, got .*answer/f1"):
        learning_figure(runs, tmp_path / "no.png", metrics=["policy/kl"])


def test_what_cannot_be_drawn_is_named(tmp_path):
    empty = write_run(tmp_path / "empty.jsonl", [])
    with pytest.raises(ConfigurationError, match="at least one step"):
        training_figure([empty], tmp_path / "a.png")
    with pytest.raises(DataNotFoundError):
        training_figure([tmp_path / "missing.jsonl"], tmp_path / "a.png")
    log = write_run(tmp_path / "one.jsonl", [1.0])
    with pytest.raises(ConfigurationError, match=r"\.png, \.svg or \.pdf"):
        training_figure([log], tmp_path / "a.bmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "one.jsonl"]


def test_a_missing_matplotlib_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    log = write_run(tmp_path / "one.jsonl", [1.0])
    with pytest.raises(ConfigurationError, match="pip install matplotlib"):
        training_figure([log], tmp_path / "a.png")


def test_matplotlibs_global_state_is_left_alone(tmp_path):
    log = write_run(tmp_path / "one.jsonl", [1.0, 2.0])
    code = f"""
import sys
import matplotlib
from search_env.agents.reporting.plots import training_figure

def settings():  # looked up in passing: reading the backend in the ordinary way chooses one
    return {{name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams}}

before = settings()
training_figure([{str(log)!r}], {str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
