"""The environment in TRL's GRPOTrainer: as tools of a chat model, or exact to the id.

Two doors. :class:`SearchTools` is an ``environment_factory``: TRL writes the conversation, a model
calls ``search`` and ``answer``, and the environment sees texts. :class:`ExactRollouts` is a
``rollout_func``: the environment's own prompt, the ids that were sampled, the mask of the policy's
tokens and their log-probabilities; nothing is decoded and encoded again.

TRL itself is not imported here: both are what it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from search_env.agents.bridges.episodes import row_fields
from search_env.agents.bridges.session import EnvironmentPool, Session, Turn
from search_env.errors import ConfigurationError, EpisodeOverError
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.types import Source

if TYPE_CHECKING:
    from search_env.agents.types import Trajectory


class SearchTools:
    """TRL's environment: its public methods but ``reset`` and ``get_reward`` are the model's tools.

    The tags of the protocol are written by the tools, so that all rewards of the package apply; the
    ids are those of the environment's own tokenizer, not those that the chat model sampled, and a
    reward of the format says nothing about the model's. A model that stops without an answer ends
    its sequence. Errors go back to the model as TRL's tools do that, ``EpisodeOverError`` after the
    answer too.

    Args:
        pool: Where questions come from.

    Example:
        >>> tools = SearchTools(EnvironmentPool("SearchQA-Toy-v0"))
        >>> tools.reset(split="train", index=9)
        'find key1 key1'
        >>> tools.search("key1 key1")
        'value0'
        >>> tools.answer("value0"), tools.get_reward()
        ('The answer was taken.', 1.0)
    """

    def __init__(self, pool: EnvironmentPool) -> None:
        self._session = Session(pool)
        self._reward, self._done = 0.0, True

    def reset(self, **row: Any) -> str:
        """Begin an episode of the task that a row names; return its question.

        Of the row's columns, ``seed``, ``split``, ``index`` and ``question_id`` choose; the others
        are the trainer's. Without any the question is random.
        """
        self._session.begin(**row_fields(row))
        self._reward, self._done = 0.0, False
        return self._session.env.transcript().question.text

    def search(self, query: str) -> str:
        """Search the corpus for passages.

        Args:
            query: What to look for, in a few words.

        Returns:
            The passages found, best first.
        """
        env = self._session.env
        turn = self._write(query_text(env.protocol, query))
        documents = self._session.env.transcript().searches
        if "document_ids" in turn.info and documents:
            markup = env.protocol.markup
            texts = [markup.document_text(document).strip() for document in documents[-1].documents]
            return "\n\n".join(texts) or "Nothing was found."
        return turn.text.strip() or f"No search was made: {turn.stop_reason or 'see the format'}."

    def answer(self, text: str) -> str:
        """Give the final answer; the episode is over then.

        Args:
            text: The answer alone, as short as possible.

        Returns:
            That it was taken.
        """
        env = self._session.env
        self._write(answer_text(env.protocol, text, thoughts=open_thoughts(env.transcript())))
        return "The answer was taken."

    def get_reward(self) -> float:
        """Return the reward of the episode, which ends now if it has not.

        0.0 where retrieval failed.
        """
        if not self._done:
            end = min(self._session.env.tokenizer.eos_ids, default=None)
            if end is not None:
                self._take(self._session.write([end]))
        return self._reward

    def _write(self, text: str) -> Turn:
        if self._done:
            raise EpisodeOverError(
                "Expected no call after the end of the episode, got one. Stop calling tools."
            )
        return self._take(self._session.write_text(text))

    def _take(self, turn: Turn) -> Turn:
        self._reward += turn.reward
        self._done = turn.done
        return turn


def search_tools(
    env_id: str = "SearchQA-v0", arguments: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[], SearchTools]:
    """Return what ``GRPOTrainer(environment_factory=...)`` takes; all share one pool."""
    return partial(SearchTools, EnvironmentPool(env_id, arguments))


class ExactRollouts:
    """TRL's ``rollout_func``: episodes of the environment by the trainer's own model.

    The dataset's ``prompt`` is the id of a question (:func:`task_rows`); the prompt that the model
    reads is the protocol's. TRL's ``max_completion_length`` must not be less than what an episode
    may have after its prompt: set ``max_tokens`` of the environment.

    The log-probabilities are of all ids at temperature 1; leave ``temperature``, ``top_p`` and
    ``top_k`` of the ``GRPOConfig`` at 1.0, 1.0 and 0, else the trainer's ratio is of another
    distribution. Episodes in which retrieval failed have a mask of zeros.

    Args:
        env_id: A registered id.
        arguments: Arguments of the environment, ``split`` among them.
        num_envs: Episodes side by side.

    Raises:
        ConfigurationError: An episode is longer than the trainer's ``max_completion_length``, or a
            prompt is not the id of a question.
        ModelMismatchError: The tokenizer has ids that the model does not know.
    """

    def __init__(
        self,
        env_id: str = "SearchQA-v0",
        arguments: Mapping[str, Any] = MappingProxyType({}),
        *,
        num_envs: int = 32,
    ) -> None:
        self._env_id, self._arguments, self._num_envs = env_id, dict(arguments), num_envs
        self._parts: tuple[Any, Any, Any] | None = None  # model, engine, environment
        self._index: dict[str, int] = {}
        self._calls = 0

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Play an episode for each prompt; return ids, mask, log-probabilities and ``env_reward``.

        Neighbours with one prompt are a group; their samples differ.
        """
        from search_env.agents.rollouts.collect import collect

        model = trainer.accelerator.unwrap_model(trainer.model)
        engine, envs = self._prepared(model)
        rank = int(trainer.accelerator.process_index)
        played: list[Trajectory] = []
        self._calls += 1
        engine.update_weights(model.state_dict, self._calls)
        for prompt, group in groupby(prompts):
            # A seed of its own for each group: a rank may play half of another's.
            seed = int(
                np.random.SeedSequence([self._calls, rank, len(played)]).generate_state(1)[0]
            )
            size = len(list(group))
            played += collect(
                envs, engine, [self._question(prompt)], group_size=size, seed=seed
            ).trajectories
        limit = trainer.args.max_completion_length
        return self._columns(played, limit)

    def _question(self, prompt: object) -> int:
        try:
            return self._index[str(prompt)]
        except KeyError:
            raise ConfigurationError(
                f"Expected the id of a question as prompt, got {prompt!r:.80}. Make the dataset "
                "with task_rows, of the environment's own split."
            ) from None

    def _prepared(self, model: Any) -> tuple[Any, Any]:
        if self._parts is None or self._parts[0] is not model:
            from search_env.agents.inference.engine import Engine
            from search_env.agents.rollouts.collect import make_envs

            vocabulary = model.get_output_embeddings().weight.shape[0]
            envs = make_envs(
                self._env_id,
                num_envs=self._num_envs,
                vocabulary=vocabulary,
                options=self._arguments,
            )
            engine = Engine(
                model,
                rows=self._num_envs,
                max_tokens=envs.protocol.max_tokens,
                shares_weights=True,
            )
            self._parts = model, engine, envs
            self._index = {question.id: i for i, question in enumerate(envs.questions)}
        return self._parts[1], self._parts[2]

    def _columns(self, played: Sequence[Trajectory], limit: int | None) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {
            name: []
            for name in ("prompt_ids", "completion_ids", "env_mask", "logprobs", "env_reward")
        }
        for trajectory in played:
            begin = int(np.argmax(trajectory.sources != Source.PROMPT))
            own = trajectory.sources[begin:] == Source.POLICY
            if limit is not None and len(own) > limit:
                raise ConfigurationError(
                    f"Expected episodes of at most max_completion_length={limit} tokens after the "
                    f"prompt, got {len(own)}. Raise it, or lower max_tokens of the environment."
                )
            columns["prompt_ids"].append(trajectory.tokens[:begin].tolist())
            columns["completion_ids"].append(trajectory.tokens[begin:].tolist())
            columns["env_mask"].append((own & trajectory.valid).astype(int).tolist())
            columns["logprobs"].append(np.where(own, trajectory.log_probs[begin:], 0.0).tolist())
            columns["env_reward"].append(trajectory.reward)
        return columns


def env_reward(env_reward: Sequence[float], **columns: Any) -> list[float]:
    """Return the environment's rewards: TRL's ``reward_funcs`` beside :class:`ExactRollouts`."""
    del columns  # prompts, completions and what else TRL passes to every reward function
    return list(env_reward)


def task_rows(
    env_id: str = "SearchQA-v0",
    arguments: Mapping[str, Any] = MappingProxyType({}),
    *,
    count: int | None = None,
) -> list[dict[str, Any]]:
    """Return rows for ``Dataset.from_list``: ``prompt``, the question's id, with split and index.

    Example:
        >>> task_rows("SearchQA-Toy-v0", {"split": "train"}, count=1)
        [{'prompt': 'toy-train-00', 'split': 'train', 'index': 0}]
    """
    pool = EnvironmentPool(env_id, arguments)
    split = pool.default_split
    number = pool.count(split) if count is None else min(count, pool.count(split))
    tasks = (pool.task(split, index) for index in range(number))
    return [{"prompt": t["id"], "split": split, "index": t["index"]} for t in tasks]
