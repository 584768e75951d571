"""An episode rendered as coloured text, as an image, and in a live terminal.

Each is a pure function of a :class:`Frame`; the colours of :mod:`.palette` and the spans of
:mod:`.spans` are shared, so that the three agree. Nothing here depends on an environment, and
Pillow is imported only when an image is drawn.
"""

from search_env.rendering.ansi import render_ansi
from search_env.rendering.frame import Budget, Frame
from search_env.rendering.image import render_rgb
from search_env.rendering.live import LiveTerminal

__all__ = ["Budget", "Frame", "LiveTerminal", "render_ansi", "render_rgb"]
