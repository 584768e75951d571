"""An episode as text for a terminal or a log, coloured by source.

Header, body and footer are separate so that the live terminal prints the same ones. Text of
documents, questions and policies is neutralised: it cannot move the cursor or repaint the screen.
Lines are not wrapped.
"""

from __future__ import annotations

from search_env.rendering.frame import Frame
from search_env.rendering.palette import (
    CAUTION,
    GOOD,
    MUTED,
    STRONG,
    TEXT,
    Style,
    paint,
    score_style,
    wants_plain_text,
)
from search_env.rendering.spans import one_line, spans
from search_env.types import StopReason

_RULE = "─" * 72


def render_ansi(frame: Frame, *, color: bool | None = None) -> str:
    """Return the episode as text.

    Args:
        frame: The episode. Gold answers appear only after its end.
        color: Whether to use 24-bit ANSI colours; without, newline is the only control character.
            None uses them unless ``NO_COLOR`` is set or the terminal is "dumb".

    Returns:
        Header, text and, after the end, footer of the episode; each ends with a newline.
    """
    color = not wants_plain_text() if color is None else color
    body = "".join(paint(span.text, span.style, color=color) for span in spans(frame.transcript))
    body += "\n" if body and not body.endswith("\n") else ""
    return header(frame, color=color) + body + footer(frame, color=color)


def header(frame: Frame, *, color: bool) -> str:
    """Return the question and the budgets above a rule."""
    question = frame.transcript.question
    rows = _row("Question", one_line(question.text), STRONG, color=color)
    rows += budget_row(frame, color=color)
    return rows + paint(_RULE, MUTED, color=color) + "\n"


def budget_row(frame: Frame, *, color: bool) -> str:
    """Return the row of the budgets, for example ``tokens 212 / 4,096``."""
    budgets = "   ".join(f"{budget.name} {budget}" for budget in frame.budgets)
    return _row("Budget", budgets, TEXT, color=color)


def footer(frame: Frame, *, color: bool) -> str:
    """Return ending, answer, gold answers and score below a rule; "" while the episode runs."""
    if frame.running:
        return ""
    transcript = frame.transcript
    answer = transcript.answer
    gold = " | ".join(map(one_line, transcript.question.answers))
    rows = paint(_RULE, MUTED, color=color) + "\n"
    rows += _row("Ended", frame.ending, ending_style(frame), color=color)
    rows += _row("Answer", "none" if answer is None else one_line(answer), STRONG, color=color)
    rows += _row("Gold", gold, TEXT, color=color)
    if frame.score is not None:
        rows += _row("Score", f"{frame.score:.3f}", score_style(frame.score), color=color)
    return rows


def ending_style(frame: Frame) -> Style:
    """Return the style of the ending: green for an answer, amber for every other ending."""
    return GOOD if frame.transcript.stop_reason is StopReason.ANSWERED else CAUTION


def _row(label: str, text: str, style: Style, *, color: bool) -> str:
    return paint(f"{label:<10}", MUTED, color=color) + paint(text, style, color=color) + "\n"
