"""The command line: ``search-env eval``, ``play``, ``index``, ``replay`` and ``rescore``.

Only arguments are read and results shown here; the work is in :mod:`search_env.evaluation`,
:mod:`search_env.play`, :mod:`search_env.retrieval.bm25` and :mod:`search_env.replay`. Further
commands are in modules of their own, those that need a language model among the agents. What a
command needs is imported when it is called, so that ``--help`` answers at once. Exit codes: 0, 2
after an error that its message explains, 130 after Ctrl-C. Results go to standard output; progress
and errors to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
import typer
from typer.core import TyperCommand, TyperGroup

from search_env.console import check_output, open_console, progress_bar, say
from search_env.datasets.splits import splits_of
from search_env.errors import ConfigurationError, SearchEnvError
from search_env.registration import ENVIRONMENTS, arguments_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from search_env.evaluation import Agent, EpisodeRecord
    from search_env.replay import Rescored

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

_ELSEWHERE = {
    "score": ("search_env.commands.score", "Score others' outputs by all measures; compare them."),
    "view": ("search_env.commands.view", "Make a page of recorded episodes to look at."),
    "bench": ("benchmarks.cli.bench", "Score an agent under a protocol that can be compared."),
    "report": ("benchmarks.cli.report", "Make a page of scores, curves and episodes."),
    "train": ("agents.commands", "Train a language model to search and to answer."),
    "label": ("agents.commands", "Measure how difficult questions are for a model."),
    "pretrain": ("agents.supervised_commands", "Teach a model to read, on articles of worlds."),
    "sft": ("agents.supervised_commands", "Fine-tune a model on episodes."),
}
"""Commands in modules of their own: where they are, and what the list of commands says."""


class _Group(TyperGroup):
    """Turns errors that explain themselves into one line, and Ctrl-C into an exit code.

    Commands that are elsewhere are loaded when one of them is called.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands that are elsewhere after those of this module."""
        return [*super().list_commands(ctx), *_ELSEWHERE]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; one from elsewhere that is not called only has its help."""
        if cmd_name in _ELSEWHERE:
            return TyperCommand(cmd_name, help=_ELSEWHERE[cmd_name][1])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is called."""
        if args and args[0] in _ELSEWHERE:
            theirs = typer.Typer(rich_markup_mode="rich", add_completion=False)
            importlib.import_module(_ELSEWHERE[args[0]][0]).register(theirs)
            return args[0], typer.main.get_group(theirs).commands[args[0]], args[1:]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the command line, for the record of a run."""
        ctx.obj = shlex.join(["search-env", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (SearchEnvError, gym.error.Error, OSError) as error:
            say(f"Error: {error}", "red", stderr=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            say("Interrupted.", "yellow", stderr=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    name="search-env",
    help="Search-augmented question answering as a Gymnasium environment.",
    epilog="Example: search-env eval",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

EnvId = Annotated[
    str, typer.Argument(help=f"One of {', '.join(ENVIRONMENTS)}, or MODULE:ID of your own.")
]
Split = Annotated[str | None, typer.Option(help="Questions' split; by default the one to test on.")]
TopK = Annotated[int | None, typer.Option(help="Documents a search.")]
Corpus = Annotated[
    str | None, typer.Option(help="Corpus file, or index made by search-env index, to search in.")
]
ProtocolName = Annotated[str | None, typer.Option(help="Tags, prompt and limits to play by.")]
TokenizerName = Annotated[
    str | None, typer.Option(help="Bundled name, path to a tokenizer.json, or hub id.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Size of the context in tokens.")]
EpisodeFile = Annotated[Path, typer.Argument(help="Recorded episodes, see RecordEpisodes.")]
TornTail = Annotated[
    str, typer.Option(help="What to do about a last line that is cut off: raise or skip.")
]
Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module that registers ids, retrievers or rewards; repeatable."),
]


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _about() -> None:
    """Search-augmented question answering as a Gymnasium environment."""


@app.command(
    "eval", epilog="Example: search-env eval SearchQA-Musique-v0 --limit 200 --out musique.json"
)
def eval_command(
    context: typer.Context,
    env_id: EnvId = "SearchQA-v0",
    agent: Annotated[
        list[str] | None, typer.Option(help="Baseline to run, repeatable; by default all five.")
    ] = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    seed: Annotated[int, typer.Option(help="Of environment, agents and bootstrap.")] = 0,
    top_k: TopK = None,
    corpus: Corpus = None,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    max_tokens: MaxTokens = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the run to.")] = None,
) -> None:
    """Run scripted agents on every question once; show scores and retrieval."""
    from agents.baselines import BASELINES, make_baseline
    from search_env.evaluation import bare_env, summarise
    from search_env.report import notes, run_record, setting_line, summary_table, write_json

    agents = {name: make_baseline(name, seed) for name in agent or BASELINES}
    check_output(out)
    env = make_env(
        env_id,
        split=split,
        top_k=top_k,
        corpus=corpus,
        protocol=protocol,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
    )
    total = len(bare_env(env).questions)
    count = total if limit is None else min(limit, total)
    say(setting_line(env, count, seed))
    records, finished = _evaluate(env, agents, count, seed)
    summaries = {name: summarise(found, seed=seed) for name, found in records.items()}
    open_console().print(summary_table(summaries))
    for note in notes(summaries):
        say(note, "dim")
    if not finished:
        name = list(records)[-1]
        done = f"{name} after {len(records[name]):,} of {count:,} questions"
        unwritten = f" {out} was not written." if out is not None else ""
        say(f"Interrupted in {done}.{unwritten}", "yellow", stderr=True)
        raise typer.Exit(INTERRUPTED)
    if out is not None:
        write_json(out, run_record(env, summaries, records, command=context.obj, seed=seed))
        say(f"Wrote {out}")
    say(
        f"Next: take the policy's place with `search-env play {env_id}`, or write an agent of "
        "your own: two methods, see agents/baselines.py."
    )


@app.command("play", epilog="Example: search-env play SearchQA-v0 --seed 3")
def play_command(
    env_id: EnvId = "SearchQA-v0",
    question_id: Annotated[str | None, typer.Option(help="Instead of a random question.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the random question.")] = None,
    split: Split = None,
    top_k: TopK = None,
    corpus: Corpus = None,
    protocol: ProtocolName = None,
    tokenizer: TokenizerName = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Take the policy's place: read a question, search, answer."""
    from search_env.evaluation import bare_env
    from search_env.play import play

    env = bare_env(
        make_env(
            env_id,
            split=split,
            top_k=top_k,
            corpus=corpus,
            protocol=protocol,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
        )
    )
    env.reset(seed=seed, options={} if question_id is None else {"question_id": question_id})
    if play(env, _read_line, sys.stdout).stop_reason is None:
        say("\nLeft before the end.", "yellow", stderr=True)


@app.command(
    "index", epilog="Example: search-env index wiki-18.jsonl indexes/wiki-18 --format flashrag"
)
def index_command(
    corpus: Annotated[Path, typer.Argument(help="Passages in any known layout, also .gz or .xz.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the index to.")],
    format: Annotated[
        str | None, typer.Option(help="Layout; by default told from the first record.")
    ] = None,
    k1: Annotated[float, typer.Option(help="Term-frequency saturation.")] = 0.9,
    b: Annotated[float, typer.Option(help="Length normalisation.")] = 0.4,
    force: Annotated[bool, typer.Option("--force", help="Replace an index that is there.")] = False,
) -> None:
    """Build a BM25 index of a corpus, to be used as corpus= of any environment."""
    from search_env.datasets.formats import read_documents
    from search_env.retrieval.bm25 import BM25Retriever

    if not force and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigurationError(
            f"Expected a new path or an empty folder to write to, got {out}. "
            "Choose another path, or pass --force to replace an index."
        )
    index = BM25Retriever.build(read_documents(corpus, format), k1=k1, b=b, progress=True)
    index.save(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(
        f"{len(index):,} passages, {size / 1e6:,.1f} MB, digest {index.digest}\n"
        f"Use it: gym.make(..., corpus={str(out)!r}), or search-env eval SearchQA-Bamboogle-v0 "
        f"--corpus {shlex.quote(str(out))}"
    )


@app.command("replay", epilog="Example: search-env replay episodes.jsonl")
def replay_command(
    file: EpisodeFile, torn_tail: TornTail = "raise", modules: Modules = None
) -> None:
    """Execute recorded episodes again and compare all that comes of them with the record."""
    from search_env.episode_files import read_episodes
    from search_env.replay import replay_episodes

    _import(modules)
    episodes = read_episodes(file, torn_tail=torn_tail)
    found = []
    with file.open("rb") as lines, progress_bar() as bar:
        task = bar.add_task("replay", total=sum(1 for _ in lines))
        for replayed in replay_episodes(episodes):
            found.append(replayed)
            bar.advance(task)
    say(
        f"{len(found):,} episodes, {sum(r.observations for r in found):,} observations and "
        f"{sum(r.searches for r in found):,} searches compared: all as recorded."
    )


@app.command("rescore", epilog="Example: search-env rescore episodes.jsonl --reward exact-match")
def rescore_command(
    file: EpisodeFile,
    reward: Annotated[list[str], typer.Option(help="Name of a reward, repeatable.")],
    group_reward: Annotated[
        str | None, typer.Option(help="Name of a group reward, added to each of them.")
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="Groups: record, as they were played, or question.")
    ] = "record",
    torn_tail: TornTail = "raise",
    modules: Modules = None,
) -> None:
    """Score recorded episodes by other rewards, without executing them."""
    from search_env.replay import rescore

    _import(modules)
    results = [
        rescore(file, name, group_reward=group_reward, group_by=group_by, torn_tail=torn_tail)
        for name in dict.fromkeys(reward)
    ]
    open_console().print(_rescore_table(results))
    valid, invalid = len(results[0].valid), results[0].invalid
    say(f"Means over {valid:,} episodes.", "dim")
    if invalid:
        say(f"{invalid:,} left out: retrieval failed in them.", "dim")


def make_env(env_id: str, **arguments: Any) -> gym.Env[Any, Any]:
    """Make an environment; on the split to test on, unless one is given.

    Args:
        env_id: A registered id, or ``module:id``.
        **arguments: Arguments of the environment; None leaves one as it is.

    Raises:
        ConfigurationError: No such id; or as raised by the environment.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    known = {**arguments_of(env_id), **given}
    if "split" not in known and "dataset" in known:
        given["split"] = splits_of(known["dataset"]).test
    return gym.make(env_id, **given)


def _evaluate(
    env: gym.Env[Any, Any], agents: Mapping[str, Agent], count: int, seed: int
) -> tuple[dict[str, list[EpisodeRecord]], bool]:
    """Run agents on the first questions behind progress bars.

    Returns:
        Records by agent, and whether all ran to the end; after Ctrl-C the last agent's are partial.
    """
    from search_env.evaluation import evaluate

    records: dict[str, list[EpisodeRecord]] = {}
    try:
        with progress_bar() as bar:
            tasks = {name: bar.add_task(name, total=count, start=False) for name in agents}
            for name, agent in agents.items():
                found = records[name] = []
                bar.start_task(tasks[name])
                on_record = _collector(found, bar, tasks[name])
                evaluate(env, agent, range(count), seed=seed, progress=on_record)
    except KeyboardInterrupt:
        if not records:
            raise
        return records, False
    return records, True


def _collector(
    found: list[EpisodeRecord], bar: Progress, task: TaskID
) -> Callable[[EpisodeRecord], None]:
    """Keep each record at once, so that Ctrl-C loses none."""

    def collect(record: EpisodeRecord) -> None:
        found.append(record)
        bar.advance(task)

    return collect


def _import(modules: Sequence[str] | None) -> None:
    """Import modules of the user's own, which may lie in the present folder."""
    for name in modules or ():
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        if importlib.util.find_spec(name) is None:
            raise ConfigurationError(
                f"Expected --import to name a module, got {name!r}. Run the command in the "
                "module's folder, or set PYTHONPATH."
            )
        importlib.import_module(name)


def _rescore_table(results: Sequence[Rescored]) -> Table:
    """Return each reward's mean total above its parts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("reward", "part"):
        table.add_column(header, overflow="fold")
    table.add_column("mean", justify="right", no_wrap=True)
    for result in results:
        mean = result.mean()
        table.add_row(Text(result.reward), Text("total"), f"{mean.total:.4f}", style="bold")
        for part, value in mean.parts.items():
            table.add_row("", Text(part), f"{value:.4f}")
    return table


def _read_line() -> str | None:
    try:
        return input("> ")
    except EOFError:
        return None
