"""The share of an episode that goes into environment code: this project, GEM and SkyRL-gym.

Run it in an environment of its own, which the peers are installed into::

    pip install gem-llm==0.1.0 skyrl-gym==0.4.0 datasets requests .
    SEARCH_ENV_DATA=<data folder> python -m benchmarks.speed.peers \
        --output benchmarks/results/speed_peers.md

All replay the 625 published trajectories of R1-Searcher with the recorded documents
(:mod:`benchmarks.speed.replays`). The peers step once a turn, with text; this environment steps
once a token, with ids. A text environment leaves it to its user to turn what it returned into
ids, which this environment does itself: the result shows both with and without it. No network,
no model: the policy's time is put in by stated rates.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reports.measurement_page import heading, publish, table
from benchmarks.speed.replays import (
    LONGEST,
    TOP_K,
    DynamicsReplay,
    Episode,
    GemReplay,
    Pass,
    Recorded,
    Replay,
    SkyRLReplay,
    StepReplay,
    decode_time,
    encode_time,
    load_episodes,
    when,
    write_questions,
)
from benchmarks.speed.vector_replays import GemVectorReplay, VectorReplay
from search_env.paths import data_dir
from search_env.protocols import get_protocol
from search_env.tokenizer import Tokenizer, load_tokenizer

SHORT = 4096
ROWS = 64
STEPPED = f"SearchQAEnv, L = {LONGEST:,}, passages encoded {{}}"
INSTALL = "pip install gem-llm==0.1.0 skyrl-gym==0.4.0 datasets requests"
PACKAGES = ("search-env", "gem-llm", "skyrl-gym", "gymnasium", "numpy", "tokenizers")

# Microseconds a policy token, all episodes of a batch together; see result() for where from.
RATES = {
    "CPU, 56": 56.0,
    "CPU, 569": 569.0,
    "CPU, 2,364": 2_364.0,
    "GPU, 100": 100.0,
    "GPU, 20,000": 20_000.0,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds an episode of one system: medians over passes, and their range."""

    begin: float
    steps: float
    whole: float
    least: float
    most: float
    finished: int

    @classmethod
    def of(cls, passes: Sequence[Pass], episodes: int) -> Cost:
        """Return the cost that some passes over as many episodes show."""
        begin, steps = (
            np.array([getattr(run, name) for run in passes]) / episodes / 1e3
            for name in ("begin", "steps")
        )
        whole = begin + steps
        return cls(
            begin=float(np.median(begin)),
            steps=float(np.median(steps)),
            whole=float(np.median(whole)),
            least=float(whole.min()),
            most=float(whole.max()),
            finished=passes[-1].finished,
        )


@dataclass(frozen=True, slots=True)
class Translation:
    """Microseconds an episode that the user of a text environment spends between text and ids.

    Attributes:
        decode: The policy's ids to the text that ``step`` takes.
        returned: What the environment returned, to ids; by system.
        policy: The policy's own text back to ids, where the ids are not kept.
    """

    decode: float
    returned: dict[str, float]
    policy: float


def build(episodes: Sequence[Episode], data: Path, folder: Path) -> list[Replay]:
    """Return every system, ready to replay."""
    recorded = Recorded(episodes)
    questions = write_questions(episodes, folder / "questions.jsonl")
    path = str(data / "tokenizers" / "qwen2.json.xz")
    protocol = get_protocol("r1-searcher").limited(top_k=TOP_K, max_tokens=LONGEST)
    steps = [
        StepReplay(
            episodes, recorded, questions=questions, tokenizer=path, length=length, warm=warm
        )
        for length, warm in ((LONGEST, False), (LONGEST, True), (SHORT, True))
    ]
    bare = [
        DynamicsReplay(
            episodes,
            recorded,
            protocol=protocol,
            tokenizer=load_tokenizer(path),
            rows=rows,
            warm=warm,
        )
        for rows, warm in ((1, False), (1, True), (ROWS, False), (ROWS, True))
    ]
    prompts = [
        "".join(text for text, _ in protocol.prompt_pieces(e.trajectory.question.text, "base"))
        for e in episodes
    ]
    vectors = [
        VectorReplay(
            episodes,
            recorded,
            questions=questions,
            tokenizer=path,
            length=LONGEST,
            rows=ROWS,
            warm=warm,
        )
        for warm in (False, True)
    ]
    peers: list[Replay] = [
        GemReplay(episodes, recorded),
        SkyRLReplay(episodes, recorded, prompts),
        GemVectorReplay(episodes, recorded, rows=ROWS),
    ]
    return [*steps, *bare, *vectors, *peers]


def measure(
    systems: Sequence[Replay], episodes: Sequence[Episode], tokenizer: Tokenizer, repeats: int
) -> tuple[dict[str, list[Pass]], Translation]:
    """Let the systems, and what text environments leave to their users, take turns."""
    passes: dict[str, list[Pass]] = {system.name: [] for system in systems}
    turns = [turn for episode in episodes for turn in episode.turns]
    ids = [tokenizer.encode(turn).tolist() for turn in turns]
    decode, policy = [], []
    returned: dict[str, list[int]] = {}
    for _ in range(repeats):
        for system in systems:
            gc.collect()
            done = system.run()
            passes[system.name].append(done)
            if done.texts:
                returned.setdefault(system.name, []).append(encode_time(tokenizer, done.texts))
        decode.append(decode_time(tokenizer, ids))
        policy.append(encode_time(tokenizer, turns))

    def middle(times: list[int]) -> float:
        return float(np.median(times)) / len(episodes) / 1e3

    translation = Translation(
        decode=middle(decode),
        returned={name: middle(times) for name, times in returned.items()},
        policy=middle(policy),
    )
    return passes, translation


def check(passes: dict[str, list[Pass]], episodes: Sequence[Episode]) -> None:
    """Make sure that everyone did the work: all searches run, all answers taken.

    Raises:
        RuntimeError: A system ran another number of searches. Episodes longer than the short
            context may end early there.
    """
    searches = sum(len(episode.trajectory.queries) for episode in episodes)
    for name, runs in passes.items():
        if any(run.finished == len(episodes) and run.searches != searches for run in runs):
            raise RuntimeError(
                f"Expected {searches} searches of {name}, got {[run.searches for run in runs]}. "
                "Compare what its rule reads out of a turn with the recorded query."
            )
        if any(run.finished != len(episodes) for run in runs) and f"L = {SHORT:,}" not in name:
            raise RuntimeError(
                f"Expected {name} to finish {len(episodes)} episodes, got "
                f"{[run.finished for run in runs]}. Replay one of the others step by step."
            )


def cost_rows(costs: dict[str, Cost], episodes: Sequence[Episode]) -> list[list[str]]:
    """Return the table of environment time; the last column is a step of the system's own kind."""
    tokens = float(np.mean([len(episode.ids) for episode in episodes]))
    turns = float(np.mean([len(episode.turns) for episode in episodes]))
    rows = []
    for name, cost in costs.items():
        whole = f"{cost.whole:,.0f} ({cost.least:,.0f} to {cost.most:,.0f})"
        unit = cost.steps / (turns if "one turn a step" in name else tokens)
        cut = f" ({len(episodes) - cost.finished} cut)" if cost.finished < len(episodes) else ""
        rows.append([name + cut, f"{cost.begin:,.0f}", f"{cost.steps:,.0f}", whole, f"{unit:.2f}"])
    return rows


def text_rows(costs: dict[str, Cost], translation: Translation) -> list[list[str]]:
    """Return the table of what text environments leave to their users; sums from left to right."""
    rows = []
    for name, returned in translation.returned.items():
        kept = costs[name].whole + translation.decode + returned
        figures = (costs[name].whole, translation.decode, returned, kept, kept + translation.policy)
        rows.append([name, *(f"{value:,.0f}" for value in figures)])
    return rows


def share_rows(costs: dict[str, Cost], translation: Translation, tokens: float) -> list[list[str]]:
    """Return the table of shares: environment time / (environment time + decode time)."""
    wholes = {name: cost.whole for name, cost in costs.items()}
    for name, returned in translation.returned.items():
        wholes[f"{name}, with ids"] = wholes[name] + translation.decode + returned
    return [
        [name, *(_share(whole, tokens * rate) for rate in RATES.values())]
        for name, whole in wholes.items()
    ]


def summary(costs: dict[str, Cost], translation: Translation, tokens: float, turns: float) -> str:
    """Return what the tables say, in short."""
    met, before = costs[STEPPED.format(when(False))], costs[STEPPED.format(when(True))]
    aside = costs[f"SearchQAVectorEnv, {ROWS} side by side, passages encoded {when(True)}"]
    rows = costs[f"GEM's vector environment, {ROWS} side by side, one turn a step"]
    gem, skyrl = costs[GemReplay.name], costs[SkyRLReplay.name]
    gem_ids, skyrl_ids = (translation.returned[r.name] for r in (GemReplay, SkyRLReplay))
    encoding = met.steps - before.steps
    return f"""\
* `SearchQAEnv` spends {met.whole / 1e3:.1f} ms on an episode, {encoding / met.whole:.0%} of it on
  encoding passages that it meets for the first time. GEM's code spends {gem.whole / 1e3:.2f} ms and
  SkyRL-gym's {skyrl.whole / 1e3:.2f} ms, and return text: encoding that once takes their user
  {gem_ids / 1e3:.1f} and {skyrl_ids / 1e3:.1f} ms more.
* Encoding passages aside, a step for each token costs {before.whole / gem.whole:.0f} times as much
  as GEM's step for each turn: {before.whole / 1e3:.1f} against {gem.whole / 1e3:.2f} ms. That is
  the price of the token-level interface: it is entered {tokens / turns:.0f} times as often, and
  copies two arrays of L = {LONGEST:,} each time.
* Beside decoding, passages included, `SearchQAEnv` takes {_share(met.whole, tokens * 569)} of an
  episode at 569 us a token and {_share(met.whole, tokens * 56)} at 56 us.
* {ROWS} episodes side by side, `SearchQAVectorEnv` spends {aside.whole / 1e3:.2f} ms on one, token
  by token, and GEM's vector environment {rows.whole / 1e3:.2f} ms, turn by turn: ours takes
  {aside.whole / rows.whole:.2f} times as much (passages encoded before, as GEM encodes none). GEM's
  copies all observations and infos at each turn; ours hands out views (`copy=False`)."""


def result(data: Path, repeats: int, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    head = heading("Environment time of an episode, beside peers", command, PACKAGES)
    tokenizer = load_tokenizer(str(data / "tokenizers" / "qwen2.json.xz"))
    episodes = load_episodes(data, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        systems = build(episodes, data, Path(folder))
        passes, translation = measure(systems, episodes, tokenizer, repeats)
    check(passes, episodes)
    costs = {name: Cost.of(runs, len(episodes)) for name, runs in passes.items()}
    tokens = float(np.mean([len(episode.ids) for episode in episodes]))
    turns = float(np.mean([len(episode.turns) for episode in episodes]))
    documents = [d for e in episodes for found in e.trajectory.documents for d in found]
    distinct = len({d.id for d in documents}) / len(documents)
    columns = ["system", "reset", "steps", "whole episode (range)", "a step"]
    ids_columns = ["system", "environment", "decode", "encode", "sum", "and the policy's text"]
    return f"""{head}* Peers: `{INSTALL}`

{len(episodes)} published trajectories of R1-Searcher; an episode has {tokens:.0f} policy tokens
(qwen2), {turns:.1f} turns and {len(documents) / len(episodes):.1f} retrieved passages, of which
{distinct:.0%} are distinct. Every system replays the same segments against the same documents,
which a dictionary returns: no network, no index, no model. CPU time of the one thread that runs,
medians of {repeats} passes in turn; reading that clock puts about 1 us into each column. Every
pass ran every search and took every answer, but for the episodes listed as cut.

{summary(costs, translation, tokens, turns)}

## Environment time, microseconds an episode

`a step` is one token for this project, one turn for the peers. This project's figures include
turning prompt (in `reset`) and passages (in `steps`) into ids, the peers' do not: next section.
`passages encoded when met` starts each pass with no passage or prompt kept encoded, `before`
with all of them kept. `SearchQAEnv` copies two arrays of length L at each token and scores the
answer; the bare dynamics do neither. `cut`: longer than L, so ended by the context.

{table(columns, cost_rows(costs, episodes))}

Favouring the peers: their request, its (de)serialisation, retries and logging are left out.

## What a text environment leaves to its user, microseconds an episode

`decode`: the policy's ids to the text that `step` takes. `encode`: what the environment returned
to ids, each text once, with the tokenizer of the first table. The last column is for trainers that
do not keep the policy's ids but encode its text again, which may also give other ids.

{table(ids_columns, text_rows(costs, translation))}

## Share of an episode

Environment time / (environment time + decode time of the policy's tokens), at stated microseconds
a token of all episodes of a batch together; `with ids` is `sum` above. Prefill is left out, which
makes the shares larger than they are. None of these rates was measured in this run. CPU: earlier
measurements on 2 cores of a Zen 5 EPYC, Qwen2 architecture, vocabulary of 4,096: 56 (2M parameters,
batch of 64, bf16, hand-written loop), 569 (50M, likewise), 2,364 (2M, one episode at a time,
`transformers` generate). GPU: assumptions, 100 (10,000 tokens/s over a large batch) and 20,000
(one stream of 50 tokens/s). Environments are taken to run while the policy waits, on one thread.

{table(["system", *RATES], share_rows(costs, translation, tokens))}
"""


def _share(part: float, rest: float) -> str:
    share = part / (part + rest)
    return f"{share:.2%}" if share >= 1e-4 else "< 0.01%"


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="passes of each system")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    missing = [name for name in ("gem", "skyrl_gym") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"expected gem-llm and skyrl-gym, got no {missing}; see the top of this file")
    data = data_dir()
    if data is None:
        parser.error("expected SEARCH_ENV_DATA to name the data folder, got nothing; set it")
    command = f"SEARCH_ENV_DATA=... python -m benchmarks.speed.peers --repeats {arguments.repeats}"
    publish(result(data, arguments.repeats, command), arguments.output)


if __name__ == "__main__":
    main()
