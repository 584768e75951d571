"""Drawing of frames in a render mode; each environment keeps one renderer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_env.rendering.frame import Frame
    from search_env.rendering.live import LiveTerminal

RENDER_MODES = ("ansi", "human", "rgb_array")


class Renderer:
    """Draws frames in one of :data:`RENDER_MODES`; drawing code is imported on first use."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._terminal: LiveTerminal | None = None

    def draw(self, frame: Frame) -> Any:
        """Return the frame as str (``ansi``) or uint8 ``(H, W, 3)``; print it for ``human``."""
        if self.mode == "ansi":
            from search_env.rendering.ansi import render_ansi

            return render_ansi(frame)
        if self.mode == "rgb_array":
            from search_env.rendering.image import render_rgb

            return render_rgb(frame)
        if self._terminal is None:
            from search_env.rendering.live import LiveTerminal

            self._terminal = LiveTerminal(sys.stdout)
        self._terminal.show(frame)
        return None
