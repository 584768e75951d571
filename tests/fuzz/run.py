"""Cases one after another, each a pure function of a seed and its number."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable

from tests.fuzz.checks import Budget, no_thread_left
from tests.fuzz.draw import Drawn, described, draw
from tests.fuzz.single import play_coarse, play_recorded, play_single, play_wrapped
from tests.fuzz.vector import play_background, play_groups, play_lockstep

Scenario = Callable[[random.Random, Drawn, Budget], None]

SCENARIOS: dict[str, Scenario] = {
    "single": play_single,
    "wrapped": play_wrapped,
    "recorded": play_recorded,
    "coarse": play_coarse,
    "lockstep": play_lockstep,
    "groups": play_groups,
    "background": play_background,
}
STEPS = 300
"""Steps of one case, at least."""


class FuzzError(AssertionError):
    """A case failed; the message says how to play it again."""


def play_case(
    seed: int,
    number: int,
    counts: Counter[str],
    *,
    scenario: str | None = None,
    large: bool = False,
    steps: int = STEPS,
) -> None:
    """Play one case, of a scenario that is drawn unless it is given.

    Raises:
        FuzzError: Anything was wrong.
    """
    rng = random.Random(f"{seed}/{number}")
    drawn_name = rng.choice(sorted(SCENARIOS))
    name = scenario or drawn_name
    budget = Budget(steps, counts)
    drawn = None
    try:
        drawn = draw(rng, large=large)
        with no_thread_left():
            SCENARIOS[name](rng, drawn, budget)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        flags = f"{'' if large else ' --small'}{f' --scenario {scenario}' if scenario else ''}"
        raise FuzzError(
            f"Scenario {name!r} failed after {steps - budget.left} steps: "
            f"{type(error).__name__}: {error}\nAgain: {sys.executable} -m tests.fuzz --seed {seed} "
            f"--case {number} --steps {steps - budget.left + 1}{flags}\n"
            f"{'' if drawn is None else described(drawn)}"
        ) from error
    counts["cases"] += 1
    counts[f"cases {name}"] += 1
