"""``search-env revise``: Retro-Search on recorded episodes, which are then imitated."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from search_env.agents.cli.common import Seed, Threads, need_agents, progress
from search_env.cli import options
from search_env.cli.console import check_output, say
from search_env.errors import ConfigurationError
from search_env.interrupts import exit_code
from search_env.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from search_env.agents.inference.sampling import Sampling
    from search_env.agents.rollouts.revise import RevisionCounts
    from search_env.envs.search_qa_vector import SearchQAVectorEnv
    from search_env.recording.record import RecordedEpisode
    from search_env.recording.revise.settings import RevisionSettings
    from search_env.types import Transcript

_OPERATORS = "continue, skip, stop"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "revise",
        epilog="Example: search-env revise episodes.jsonl --reviser runs/first/model --output "
        "revised.jsonl",
    )(revise_command)


def revise_command(
    trajectories: Annotated[list[Path], typer.Argument(help="Files of right recorded episodes.")],
    reviser: Annotated[
        str,
        typer.Option(
            help="Model that samples: bundled name, folder, hub id, .gguf file. The model that "
            "wrote the episodes (self) or a weaker one (weak to strong)."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "--out", help="File of episodes; one it began is continued.")
    ],
    wrong: Annotated[
        str, typer.Option(help="Episodes that are not right or well formed: raise or skip.")
    ] = "raise",
    keep: Annotated[
        str, typer.Option(help="all: those that no branch improved too, as they are; or revised.")
    ] = "all",
    operator: Annotated[
        list[str] | None, typer.Option(help=f"One of {_OPERATORS}; repeatable; by default all.")
    ] = None,
    rollouts: Annotated[int | None, typer.Option(min=1, help="Roll-outs of a branch, n.")] = None,
    least_right: Annotated[
        int | None, typer.Option(min=1, help="Roll-outs of a branch that must be right, k.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the revision, NAME=VALUE as JSON; repeatable."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability that is kept.")] = 0.98,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N episodes.")] = None,
    num_envs: Annotated[int, typer.Option(min=1, help="Roll-outs side by side.")] = 64,
    max_tokens: options.MaxTokens = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    torn_tail: options.TornTail = "raise",
    modules: options.Modules = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Revise right episodes into shorter ones, and write as many unrevised ones beside them.

    A run that was stopped goes on where it was. The settings of --set are those of
    search_env.recording.revise.settings.RevisionSettings.
    """
    need_agents("revise")
    import torch

    from search_env.agents.inference.sampling import Sampling
    from search_env.recording.revise.checks import WRONG, check_episodes
    from search_env.recording.revise.settings import RevisionSettings

    options.import_modules(modules)
    check_choice("--wrong", wrong, WRONG)
    changes = {"operators": operator, "rollouts": rollouts, "least_right": least_right}
    chosen = RevisionSettings().changed({**_values(settings), **options.without_none(changes)})
    sampling = Sampling(temperature=temperature, top_p=top_p)
    check_output(output)
    if threads is not None:
        torch.set_num_threads(threads)
    episodes = check_episodes(_read(trajectories, torn_tail), chosen, wrong=wrong)[:limit]
    model, description = _load(reviser, dtype, episodes[0])
    envs = _envs(model, episodes[0], num_envs, max_tokens, reviser)
    plan = _Plan(output, chosen, sampling, reviser, keep, seed, description)
    try:
        _revise(model, envs, [episode.transcript for episode in episodes], plan)
    except KeyboardInterrupt as error:
        say(f"Interrupted. Run the same command to go on with {output}.", "yellow", stderr=True)
        raise typer.Exit(exit_code(error)) from None
    _show(output, len(episodes), reviser)


class _Plan(NamedTuple):
    """What is written, and what decides it."""

    output: Path
    settings: RevisionSettings
    sampling: Sampling
    reviser: str
    keep: str
    seed: int
    description: Mapping[str, Any]  # of the model


def _values(settings: Sequence[str] | None) -> dict[str, Any]:
    """Return the settings of the command line: JSON, other text stands for itself."""
    values = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigurationError(
                f"Expected --set NAME=VALUE, got {setting!r}. Write for example --set gamma=0.8."
            )
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def _read(files: Sequence[Path], torn_tail: str) -> list[RecordedEpisode]:
    from search_env.recording.files import read_episodes

    return [episode for file in files for episode in read_episodes(file, torn_tail=torn_tail)]


def _load(
    reviser: str, dtype: str, episode: RecordedEpisode
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the reviser, whose ids are those of the episodes, and what names it."""
    import torch

    from search_env.agents.errors import ModelMismatchError
    from search_env.agents.learning.precision import TORCH_DTYPES, dtype_in_words, resolve_dtype
    from search_env.agents.models import check_same_ids, load_model, own_tokenizer, weights_digest
    from search_env.tokens.tokenizer import load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_dtype(dtype, device)
    say(f"Computed in {dtype_in_words(precision, device)}.", stderr=True)
    model = load_model(reviser, dtype=TORCH_DTYPES[precision], device=device)
    own = own_tokenizer(model)
    if own is not None:
        try:
            check_same_ids(load_tokenizer(own), episode.tokenizer.load())
        except ModelMismatchError as error:
            raise ModelMismatchError(
                f"{episode.place}: expected a reviser with the episodes' tokenizer "
                f"{episode.tokenizer.name!r}, got {reviser}, whose own is another one. Ids are "
                f"never encoded again: choose a reviser with the same tokenizer. ({error})"
            ) from error
    return model, {"weights": weights_digest(model), "dtype": precision}


def _envs(
    model: PreTrainedModel,
    episode: RecordedEpisode,
    num_envs: int,
    max_tokens: int | None,
    reviser: str,
) -> SearchQAVectorEnv:
    """Return rows with the recorded arguments, for the model's ids and no more than its context."""
    from search_env.agents.errors import ModelMismatchError
    from search_env.agents.inference.forward import context_limit
    from search_env.agents.models import count_ids
    from search_env.protocols.registry import get_protocol
    from search_env.recording.replay import recorded_envs

    ids, size = count_ids(model), episode.tokenizer.size
    if ids < size:
        raise ModelMismatchError(
            f"{episode.place}: expected a reviser that samples the episodes' {size} ids of "
            f"tokenizer {episode.tokenizer.name!r}, got {reviser} with {ids}. Choose one with the "
            "same tokenizer."
        )
    recorded = episode.arguments.get("max_tokens")
    longest = recorded or get_protocol(episode.transcript.protocol).max_tokens
    limits = [n for n in (max_tokens, context_limit(model)[0]) if n is not None]
    changes: dict[str, Any] = {"reward": episode.reward}
    if min(limits, default=longest) < longest:
        changes["max_tokens"] = min(limits)
    if ids != size:
        changes["vocab_size"] = ids
    return recorded_envs(episode, num_envs, **changes)


def _revise(
    model: PreTrainedModel,
    envs: SearchQAVectorEnv,
    episodes: Sequence[Transcript],
    plan: _Plan,
) -> None:
    """Revise episodes with the built-in engine."""
    from search_env.agents.inference.engine import Engine
    from search_env.agents.rollouts.revise import revise_episodes
    from search_env.recording.revise.guards import episode_verifier
    from search_env.recording.revise.retro_search import RetroSearch

    size = envs.protocol.max_tokens
    engine = Engine(model, rows=envs.num_envs, max_tokens=size, sampling=plan.sampling)
    search = RetroSearch(envs.tokenizer, plan.settings, episode_verifier(plan.settings))
    with progress("revise", len(episodes)) as advance:
        revise_episodes(
            *(envs, engine, search, episodes, plan.output),
            reviser=plan.reviser,
            keep=plan.keep,
            seed=plan.seed,
            settings=plan.description,
            progress=advance,
        )


def _show(output: Path, episodes: int, reviser: str) -> None:
    """Print the totals and the next commands."""
    from search_env.agents.rollouts.revise import count_revisions

    if not output.exists():
        say(f"None of {episodes:,} episodes was revised, and none is written.")
        return
    counts = count_revisions(output)
    say(_totals(counts, episodes))
    for name, number in sorted(counts.tried.items()):
        say(f"  {name}: {number:,}")
    if counts.failed:
        say(f"Retrieval failed in {counts.failed:,} branches.", "yellow", stderr=True)
    control = output.with_name(f"{output.stem}.control{output.suffix}")
    for file, run in ((output, "runs/revised"), (control, "runs/unrevised")):
        words = ["search-env", "sft", str(file), "--model", reviser, "--out", run]
        say(f"Imitate them: {shlex.join(words)}")


def _totals(counts: RevisionCounts, episodes: int) -> str:
    lines = [f"{counts.revised:,} of {episodes:,} episodes were revised; mean of those written:"]
    for name, (before, after) in (
        ("searches", counts.searches),
        ("steps", counts.steps),
        ("policy tokens", counts.tokens),
    ):
        lines.append(f"  {name}: {before / counts.episodes:.2f} -> {after / counts.episodes:.2f}")
    if counts.from_memory:
        lines.append(f"  from memory, without support in the documents: {counts.from_memory:,}")
    return "\n".join(lines)
