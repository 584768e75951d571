"""Colours differ in every kind of vision and are legible on the background."""

import itertools

import numpy as np
import pytest

from search_env.rendering import palette
from search_env.types import Source

COLORS = {source.name: palette.SOURCES[source].rgb for source in list(Source)[1:]} | {
    "tag": palette.TAG.rgb,
    "fault": palette.FAULT.rgb,
    "good": palette.GOOD.rgb,
}
# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(rgb):
    c = np.array(rgb) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb_linear):
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x = to_xyz @ np.clip(rgb_linear, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(rgb):
    return float(linear(rgb) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_in_every_vision(vision):
    matrix = np.array(VISION[vision])
    seen = {name: lab(matrix @ linear(rgb)) for name, rgb in COLORS.items()}
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 20, (a, b)


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("ground", [palette.BACKGROUND, palette.PANEL])
def test_contrast(name, ground):
    assert (luminance(COLORS[name]) + 0.05) / (luminance(ground) + 0.05) >= 4.5


def test_every_source_has_a_style():
    assert set(palette.SOURCES) == set(Source)


def test_paint_colours_each_line_by_itself():
    red = palette.Style((1, 2, 3))
    assert palette.paint("a\n\nb", red, color=True) == (
        "\x1b[38;2;1;2;3ma\x1b[0m\n\n\x1b[38;2;1;2;3mb\x1b[0m"
    )
    assert palette.paint("a\nb", red, color=False) == "a\nb"
