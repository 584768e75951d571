"""Summary of a run: a table of results before and after training, and selected episodes.

Means and intervals are computed from finished episodes; nothing is played. Text of documents,
questions and policies is neutralised: its control characters do not reach the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.style import Style as RichStyle
from rich.table import Table
from rich.text import Text

from search_env.agents.types import Trajectory
from search_env.errors import ConfigurationError
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.metrics.answers import R1_SEARCHER
from search_env.metrics.statistics import RESAMPLES, bootstrap_mean
from search_env.rendering.palette import (
    BAD,
    CAUTION,
    GOOD,
    MUTED,
    SOURCES,
    STRONG,
    TAG,
    TEXT,
    Style,
)
from search_env.rendering.spans import neutralise, one_line
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Question, Source, Transcript

_TAGS = re.compile(r"<[^<>\s]{1,40}>")
_MOST_COLUMNS = 100
_TITLE = 28  # characters that are kept of a document's beginning if its evidence comes far behind


@dataclass(frozen=True, slots=True)
class _Measured:
    """Measures of one valid episode; None where it does not have them."""

    hops: int | None
    exact_match: float
    f1: float
    searched: float
    searches: float
    well_formed: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A selected episode."""

    why: str  # it was selected, for example "right, 3 hops"
    episode: Trajectory


_COLUMNS: tuple[tuple[str, Callable[[_Measured], float | None]], ...] = (
    ("EM\n%", lambda m: m.exact_match),
    ("F1\n%", lambda m: m.f1),
    ("search\nrate %", lambda m: m.searched),
    ("searches", lambda m: m.searches),
    ("format\nkept %", lambda m: m.well_formed),
)


def results_table(
    runs: Mapping[str, Sequence[Trajectory] | Sequence[EpisodeMeasures]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Table:
    """Return a table of policies, over all questions and by hops; at most 80 columns wide.

    Each mean stands above its 95 % bootstrap interval over questions. Shares are in per cent.
    "Format kept" is a dash for records, which do not have it.

    ``runs`` has episodes on the same questions by the policy's name, for example before and after.
    Episodes in which retrieval failed are left out.

    Raises:
        ConfigurationError: A policy has no valid episode.
    """
    measured = {name: _measure(episodes) for name, episodes in runs.items()}
    for name, measures in measured.items():
        if not measures:
            raise ConfigurationError(
                f"Expected valid episodes of {name!r}, got none of {len(runs[name])}. "
                "Play some questions, and check that retrieval works."
            )
    hops = sorted({m.hops for measures in measured.values() for m in measures if m.hops})
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("questions", no_wrap=True)
    table.add_column("policy", overflow="fold")
    for header, _ in _COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for count in (None, *(hops if len(hops) > 1 else ())):
        groups = {
            name: [m for m in measures if count in (None, m.hops)]
            for name, measures in measured.items()
        }
        label = "all" if count is None else f"{count} hop{'s' * (count > 1)}"
        for number, (name, group) in enumerate(groups.items()):
            cells = [
                _cell([read(m) for m in group], "%" in header, resamples=resamples, seed=seed)
                for header, read in _COLUMNS
            ]
            first = Text("" if number else label, "bold")
            table.add_row(first, Text(name), *cells, f"{len(group):,}")
        table.add_section()
    return table


def select_samples(
    after: Sequence[Trajectory], before: Sequence[Trajectory] | None = None, count: int = 3
) -> list[Sample]:
    """Select episodes: one right over many hops, one wrong, one changed by training, and so on.

    The changed one comes as a pair, ``before`` and ``after`` training on the same questions. No
    question of the ``count`` is selected twice; the selection is deterministic, invalid episodes
    are skipped.
    """
    valid = [episode for episode in after if episode.valid]
    right = sorted((e for e in valid if _is_right(e)), key=lambda e: (-e.hops, len(e.tokens)))
    wrong = sorted(  # those that answered and searched first, short ones first
        (e for e in valid if not _is_right(e)),
        key=lambda e: (e.answer is None, not e.num_searches, len(e.tokens)),
    )
    old = {e.question_id: e for e in before or () if e.valid}
    changed = [e for e in right if (o := old.get(e.question_id)) is not None and not _is_right(o)]
    samples: dict[str, list[Sample]] = {}
    queues = [iter(right), iter(wrong), iter(changed)]
    for turn in range(3 * max(1, len(valid))):
        if len(samples) >= count:
            break
        episode = next((e for e in queues[turn % 3] if e.question_id not in samples), None)
        if episode is None:
            continue
        hops = f", {episode.hops} hop{'s' * (episode.hops > 1)}" if episode.hops else ""
        pair = samples[episode.question_id] = []
        if turn % 3 == 2:
            pair.append(Sample(f"before training{hops}", old[episode.question_id]))
        why = "after training" if pair else "right" if _is_right(episode) else "wrong"
        pair.append(Sample(f"{why}{hops}", episode))
    return [one for pair in samples.values() for one in pair]


def show_episodes(
    samples: Iterable[Sample],
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    console: Console | None = None,
) -> None:
    """Print episodes: question, the policy's text, shortened documents, answer and verdict.

    Empty lines are left out. Answers of the single steps, where the dataset has them, are bold in
    the documents, and shortening keeps them. Without a console, standard output.

    Raises:
        ConfigurationError: An episode's question is not among them.
    """
    console = console or Console(highlight=False)
    by_id = {question.id: question for question in questions}
    for one in samples:
        question = by_id.get(one.episode.question_id)
        if question is None:
            raise ConfigurationError(
                f"Expected question {one.episode.question_id!r} among {len(by_id)} questions, got "
                "none of that id. Pass the questions of the environment that was played."
            )
        width = min(console.width, _MOST_COLUMNS)
        console.print(Text(f"\n── {one.why} ".ljust(width, "─"), _rich(STRONG)))
        console.print(_head(question))
        console.print(_body(one.episode, question, tokenizer, width))
        console.print(_ending(one.episode))


def _measure(episodes: Iterable[Trajectory | EpisodeMeasures]) -> list[_Measured]:
    measures = []
    for episode in episodes:
        if not episode.valid:
            continue
        if isinstance(episode, EpisodeMeasures):
            scores = (episode.exact_match, episode.f1)
            searches, well_formed = episode.searches or 0, None
        else:
            scores = (episode.scores["exact_match"], episode.scores["f1"])
            searches, well_formed = episode.num_searches, float(episode.well_formed)
        counts = (float(searches > 0), float(searches))
        measures.append(_Measured(episode.hops or None, *scores, *counts, well_formed))
    return measures


def _cell(values: Sequence[float | None], in_per_cent: bool, *, resamples: int, seed: int) -> Text:
    """Return a mean above its interval."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return Text("-")
    estimate = bootstrap_mean(numbers, resamples=resamples, seed=seed)
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if in_per_cent:
        top, below = f"{100 * mean:.1f}", f"{100 * low:.0f}-{100 * high:.0f}"
    else:
        top, below = f"{mean:.2f}", f"{low:.2f}-{high:.2f}"
    return Text.assemble((top, "bold"), "\n", (below, "dim"))


def _is_right(episode: Trajectory) -> bool:
    return episode.scores["exact_match"] == 1.0


def _head(question: Question) -> Text:
    golds = " | ".join(map(one_line, question.answers))
    return Text.assemble(
        ("Question  ", _rich(MUTED)),
        (one_line(question.text), _rich(TEXT)),
        ("\nGold      ", _rich(MUTED)),
        (golds, _rich(TEXT)),
    )


def _body(episode: Trajectory, question: Question, tokenizer: Tokenizer, width: int) -> Text:
    """Return the text after the prompt, coloured by its source."""
    transcript = Transcript(
        question, "", episode.tokens, episode.sources, events=(), decode=tokenizer.decode
    )
    evidence = _evidence(question)
    lines: list[Text] = []
    for source, raw in transcript.segments():
        if source is Source.PROMPT:
            continue
        for line in filter(str.strip, neutralise(raw).split("\n")):
            if source is Source.POLICY:
                part = Text(line, _rich(SOURCES[source]))
                part.highlight_regex(_TAGS, _rich(TAG))
            else:
                part = Text(_shortened(line, evidence, width), _rich(SOURCES[source]))
                for words in evidence:
                    part.highlight_regex(words, RichStyle(bold=True))
            lines.append(part)
    return Text("\n").join(lines)


def _evidence(question: Question) -> list[re.Pattern[str]]:
    """Return patterns of the steps' answers in order and of the gold answers, but yes and no."""
    answers = [hop.answer for hop in question.hops] + list(question.answers)
    words = dict.fromkeys(map(one_line, answers))
    open_ended = [w for w in words if w and w.lower() not in R1_SEARCHER.closed_answers]
    return [re.compile(rf"(?<!\w){re.escape(w)}(?!\w)") for w in open_ended]


def _shortened(line: str, evidence: Sequence[re.Pattern[str]], width: int) -> str:
    """Return a document's line, its title first, cut to a width that keeps the last evidence in it.

    Example:
        >>> town = "(1)Ada   Ada is a small town on a river in the north, the river Bim."
        >>> _shortened(town, [re.compile("Ada")], 48)
        '(1)Ada   Ada is a small town on a river in ...'
        >>> _shortened(town, [re.compile("Ada"), re.compile("Bim")], 48)
        '(1)Ada   Ada is a small town ... the river Bim.'
    """
    if len(line) <= width:
        return line
    spans = [match.span() for words in evidence if (match := words.search(line))]
    at, end = spans[-1] if spans else (0, 0)
    if end <= width - 4:
        return _cut(line, width - 4) + " ..."
    end = len(line) if len(line) - end <= 4 else end
    tail = "" if end == len(line) else " ..."
    head = _cut(line, _TITLE) + " ... "
    start = end - (width - len(head) - len(tail))
    start = line.find(" ", start - 1, at) + 1 or at
    return head + line[start:end] + tail


def _cut(line: str, width: int) -> str:
    """Return the words that fit a width, or a part of the first."""
    words = line[: width + 1].rpartition(" ")[0]
    return (words or line[:width]).rstrip()


def _ending(episode: Trajectory) -> Text:
    """Return answer, verdict, searches and tokens in one line."""
    searches = f"{episode.num_searches} search{'es' * (episode.num_searches != 1)}"
    cost = f"   {searches}, {episode.num_policy_tokens} tokens written"
    if episode.answer is None:
        why = episode.stop_reason.value.replace("_", " ")
        answer = [(f"none ({why})", _rich(CAUTION))]
    else:
        wrong = f"wrong, F1 {episode.scores['f1']:.2f}"
        verdict, style = ("right", GOOD) if _is_right(episode) else (wrong, BAD)
        answer = [(one_line(episode.answer), _rich(STRONG)), (f"   {verdict}", _rich(style))]
    return Text.assemble(("Answer    ", _rich(MUTED)), *answer, (cost, _rich(MUTED)))


def _rich(style: Style) -> RichStyle:
    """Return a style of the palette as a rich style."""
    red, green, blue = style.rgb
    colour = None if style.native else f"rgb({red},{green},{blue})"
    return RichStyle(color=colour, bold=style.bold, underline=style.underline)
