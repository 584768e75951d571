"""Settings of Retro-Search, each with the reason of its default.

The paper's full text was not at hand when this was written. What abstract and reviews say is the
algorithm itself: thoughts end at transition keywords, steps at blank lines, right traces alone are
revised, keywords are forbidden in the next step, and a right and shorter roll-out is taken. All
else is a field here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from search_env.errors import ConfigurationError
from search_env.typed_values import build, check_fields
from search_env.validation import check_amount, check_choice, check_count

Operator = Literal["continue", "skip", "stop"]
OPERATORS: tuple[Operator, ...] = ("continue", "skip", "stop")
"""Ways to branch off at a transition, in the order in which they are tried."""

KEYWORDS = (
    "But",
    "Wait",
    "Alternatively",
    "However",
    "Hmm",
    "Hmmm",
    "Not sure",
    "Going back",
    "Backtrack",
    "Trace back",
    "Another",
)
"""Words that a new thought begins with; "alternatively" and "wait" are from the paper's reviews."""

MATCHERS = ("exact_match", "f1", "cover_exact_match")
GROUNDINGS = ("either", "answer", "supporting", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSettings:
    """How traces are revised.

    Attributes:
        keywords: Transition keywords: a thought ends before a step that begins with one, as full
            words in any case. Empty: only searches are transitions.
        separator: Text that ends a step. Models that write a line a step need a single line feed.
        ban_from: The first id of a keyword is forbidden where it has at least so many letters of it
            and ends inside a word; an id that completes a keyword always is. With 1 no keyword is
            begun, but in small vocabularies other words are not either; a large number lets half a
            keyword be written, which then must go on differently.
        operators: Which of :data:`OPERATORS` are tried. Traces without searches know the first.
        skip_from: Where *skip* cuts: before the ``"step"`` that announces the search, so that no
            announcement stays without its search, or before the ``"query"`` alone.
        skip_bans: Whether *skip* forbids a search in the next step, as *continue* does. A format in
            which nothing is written between two searches needs False: the next search that is
            needed would be forbidden with the one that is not.
        rollouts: Roll-outs of each branch, n. The paper's reviews name one; with several, an answer
            that is right by luck is not taken for a shorter way.
        least_right: Roll-outs of a branch that must be right, k of n.
        gamma: Discount of the value for each unit of cost. With one roll-out it changes nothing.
        search_cost: What a search costs beside its step: about what a query and the reading of its
            documents take.
        token_cost: What each token of the policy costs; 0: steps count, as in the paper.
        matcher: The score that says whether an answer is right.
        least_score: The least score of a right answer, such as 0.8 with ``f1``.
        grounding: What must still stand in the retrieved documents of a search episode: the
            ``"answer"``, all ``"supporting"`` documents that the episode had before, ``"either"``,
            or nothing (``"off"``): answers from memory then teach that no search is needed.
        partial: Begin at a random transition instead of at the first. Cheaper; what comes before
            stays as it is.
        reexamine: After a branch is taken, try the next transition of the new trace at the same
            place too. False goes on to the one after it, which leaves every second of a row of
            superfluous searches.
        longest: Roll-outs with more policy tokens than this many times the tail that they would
            replace are cut off and count as wrong; at least 64 tokens are allowed. None: as long as
            the environment allows.

    Raises:
        ConfigurationError: A value out of its range.
    """

    keywords: tuple[str, ...] = KEYWORDS
    separator: str = "\n\n"
    ban_from: int = 3
    operators: tuple[str, ...] = OPERATORS
    skip_from: str = "step"
    skip_bans: bool = True
    rollouts: int = 4
    least_right: int = 3
    gamma: float = 0.9
    search_cost: float = 2.0
    token_cost: float = 0.0
    matcher: str = "exact_match"
    least_score: float = 1.0
    grounding: str = "either"
    partial: bool = False
    reexamine: bool = True
    longest: float | None = 2.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        for operator in self.operators:
            check_choice("operators", operator, OPERATORS)
        check_choice("skip_from", self.skip_from, ("step", "query"))
        check_choice("matcher", self.matcher, MATCHERS)
        check_choice("grounding", self.grounding, GROUNDINGS)
        for name in ("ban_from", "rollouts", "least_right"):
            check_count(name, getattr(self, name), 1)
        for name in ("search_cost", "token_cost"):
            check_amount(name, getattr(self, name))
        self._check_texts()
        self._check_numbers()

    def _check_texts(self) -> None:
        if not all(isinstance(word, str) and word.strip() for word in self.keywords):
            raise ConfigurationError(
                f"Expected keywords with letters, got {list(self.keywords)!r}. Remove empty ones."
            )
        if not self.separator or self.separator.strip():
            raise ConfigurationError(
                f"Expected a separator of white space, got {self.separator!r}. Pass "
                r"'\n\n' or '\n'."
            )
        if not self.operators:
            raise ConfigurationError(
                f"Expected at least one operator, got none. Pass one of {', '.join(OPERATORS)}."
            )

    def _check_numbers(self) -> None:
        if self.least_right > self.rollouts:
            raise ConfigurationError(
                f"Expected least_right of at most rollouts={self.rollouts}, got "
                f"{self.least_right}. Lower it, or raise rollouts."
            )
        for name, value, high, expected in (
            ("gamma", self.gamma, 1.0 - 1e-9, "above 0 and below 1"),
            ("least_score", self.least_score, 1.0, "above 0 and at most 1"),
            ("longest", self.longest, 1e9, "above 0, or None"),
        ):
            if value is not None and not 0.0 < value <= high:
                raise ConfigurationError(
                    f"Expected {name} to be a number {expected}, got {value!r}. Set it within."
                )

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def changed(self, changes: Mapping[str, Any] = MappingProxyType({})) -> RevisionSettings:
        """Return these settings with some fields replaced, lists among them as tuples.

        Raises:
            ConfigurationError: No such field, or a value out of its range.
        """
        return build(RevisionSettings, {**self.to_json(), **changes})


PLAIN = RevisionSettings(operators=("continue",), rollouts=1, least_right=1, grounding="off")
"""The paper's setting, for traces that do not search: one roll-out at each transition."""
