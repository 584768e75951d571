"""One look of an episode in three forms: coloured text, a picture, and a live terminal.

Each form is a pure function of a :class:`Frame`; colours come from :mod:`.palette` and the reading
of tokens as coloured text from :mod:`.spans`, so that the three cannot disagree. Nothing here knows
an environment, and Pillow is imported only when a picture is drawn.
"""

from search_env.rendering.ansi import render_ansi
from search_env.rendering.frame import Budget, Frame
from search_env.rendering.image import render_rgb
from search_env.rendering.live import LiveTerminal

__all__ = ["Budget", "Frame", "LiveTerminal", "render_ansi", "render_rgb"]
