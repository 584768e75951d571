"""An OpenEnv server over the environment: sessions over WebSocket, tasks by split and index.

OpenEnv knows neither ``truncated`` nor spaces: ``truncated``, ``valid`` and ``stop_reason`` are in
the ``metadata`` of every observation, beside the environment's info. An action is a text or token
ids; with ids the observation's ``tokens`` and ``sources`` are exact, and joined over all steps they
are the episode.

OpenEnv's HTTP route ``/step`` makes a new environment for every request. So it may name the task in
the request, beside ``action``: the episode then begins and the action is its first one.
"""

from __future__ import annotations

import functools
import importlib.metadata
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from search_env.agents.bridges.session import EnvironmentPool, Session, Turn
from search_env.errors import ConfigurationError, InvalidActionError, SearchEnvError, nearest
from search_env.redaction import redacted

NEEDS = (
    "Expected the package openenv, got none or one with another interface ({}). Run "
    '`pip install "search-env[openenv]"` in an environment of its own.'
)
_GRACE = 10  # seconds for what is under way when the server is told to stop
_PREVIEW = 1000  # tasks of a list
_FIELDS = ("seed", "episode_id", "split", "index", "question_id")


class OpenEnvTypes(NamedTuple):
    """OpenEnv's kinds of classes for this environment; made when the package is there."""

    environment: type[Any]
    action: type[Any]
    observation: type[Any]
    state: type[Any]


class SessionEnvironment:
    """One session: episodes of any split, and the tasks to choose from.

    All of OpenEnv's ``Environment`` but its base class, which :func:`openenv_types` adds, with the
    classes of what it returns.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    observation_type: type[Any]
    state_type: type[Any]
    metadata_type: type[Any]

    def __init__(self, pool: EnvironmentPool) -> None:
        super().__init__()
        self._pool, self._session = pool, Session(pool)
        self._state = self.state_type()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        question_id: str | None = None,
        **unknown: Any,
    ) -> Any:
        """Begin an episode; see :meth:`Session.begin`."""
        with _named_errors():
            _refuse(unknown)
            turn = self._session.begin(seed=seed, split=split, index=index, question_id=question_id)
        self._state = self.state_type(episode_id=episode_id)
        return self._observed(turn)

    def step(
        self,
        action: Any,
        timeout_s: float | None = None,
        seed: int | None = None,
        split: str | None = None,
        index: int | None = None,
        question_id: str | None = None,
        **unknown: Any,
    ) -> Any:
        """Write; with a task named, in a new episode.

        ``timeout_s`` is not used: retrievers have time limits of their own.
        """
        del timeout_s
        task = {"seed": seed, "split": split, "index": index, "question_id": question_id}
        with _named_errors():
            _refuse({k: v for k, v in unknown.items() if k != "request_id"})
            begun = None
            if any(value is not None for value in task.values()):
                begun = self._session.begin(**task)  # type: ignore[arg-type]
            turn = self._write(action)
        self._state.step_count += 1
        observation = self._observed(turn)
        if begun is not None:  # one request shows the whole episode
            observation.tokens = begun.tokens + observation.tokens
            observation.sources = begun.sources + observation.sources
        return observation

    @property
    def state(self) -> Any:
        """Where the episode is."""
        return self._state

    def list_splits(self) -> list[str]:
        """Return the names of the splits."""
        return list(self._pool.splits)

    def num_tasks(self, split: str) -> int:
        """Return the number of questions of a split."""
        with _named_errors():
            return self._pool.count(split)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Return a question without its answers; ``reset(split=, index=)`` begins it.

        Raises:
            IndexError: There is no such question, which OpenEnv's route answers with 400.
        """
        count = self.num_tasks(split)
        if not 0 <= index < count:
            raise IndexError(f"Expected index from 0 to {count - 1}, got {index}.")
        return self._pool.task(split, index)

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        """Return some of the questions, as a slice does."""
        indices = range(self.num_tasks(split))[slice(start, stop)]
        return [self._pool.task(split, index) for index in indices]

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """Return the first thousand questions of a split; ``get_task_range`` has all."""
        return self.get_task_range(split, 0, _PREVIEW)

    def get_metadata(self) -> Any:
        """Return what OpenEnv's pages show."""
        return self.metadata_type(
            name=self._pool.env_id,
            description="Search-augmented question answering, exact to the token.",
            version=_version(),
        )

    def close(self) -> None:
        """End the session's episode."""
        self._session.close()

    def _write(self, action: Any) -> Turn:
        if (action.text is None) == (action.tokens is None):
            raise InvalidActionError(
                "Expected an action with text or with tokens, got "
                f"{'both' if action.text is not None else 'neither'}. Send one of the two."
            )
        if action.text is not None:
            return self._session.write_text(action.text)
        return self._session.write(action.tokens or [])

    def _observed(self, turn: Turn) -> Any:
        self._state.question_id = turn.info["question_id"]
        self._state.num_searches = turn.info["num_searches"]
        self._state.stop_reason = turn.stop_reason
        return self.observation_type(
            text=turn.text,
            tokens=turn.tokens,
            sources=turn.sources,
            reward=turn.reward,
            done=turn.done,
            metadata={
                "truncated": turn.truncated,
                "valid": turn.valid,
                "stop_reason": turn.stop_reason,
                "unused_actions": turn.unused,
                **turn.info,
            },
        )


@functools.cache
def openenv_types() -> OpenEnvTypes:
    """Return the classes; the environment's constructor takes an :class:`EnvironmentPool`.

    Raises:
        ConfigurationError: The package openenv is missing, or has another interface.
    """
    try:
        from openenv.core.env_server.interfaces import Environment
        from openenv.core.env_server.types import Action, EnvironmentMetadata, Observation, State
        from pydantic import ConfigDict, Field, StrictInt
    except ImportError as error:
        raise ConfigurationError(NEEDS.format(error)) from error

    class SearchAction(Action):  # type: ignore[misc]
        """What the policy writes: a text, or the ids that it sampled. Exactly one of the two."""

        # Clients that have a plain reply put it into the one field that the schema requires.
        model_config = ConfigDict(json_schema_extra={"required": ["text"]})

        text: str | None = Field(default=None, description="Encoded once by the environment.")
        tokens: list[StrictInt] | None = Field(
            default=None, description="Ids of the environment's tokenizer, as they were sampled."
        )

    class SearchObservation(Observation):  # type: ignore[misc]
        """What the episode gained; metadata has truncated, valid, stop_reason and the info."""

        text: str = Field(default="", description="What the environment wrote since the last step.")
        tokens: list[int] = Field(
            default_factory=list, description="New ids: the action's, then the environment's."
        )
        sources: list[int] = Field(
            default_factory=list,
            description="Writer of each: 1 prompt, 2 policy, 3 retrieved, 4 notice.",
        )

    class SearchState(State):  # type: ignore[misc]
        """Where the episode is."""

        question_id: str = ""
        num_searches: int = 0
        stop_reason: str = ""

    class SearchEnvironment(SessionEnvironment, Environment):  # type: ignore[misc]
        """A session of OpenEnv's server."""

        observation_type = SearchObservation
        state_type = SearchState
        metadata_type = EnvironmentMetadata

    return OpenEnvTypes(SearchEnvironment, SearchAction, SearchObservation, SearchState)


def create_app(
    pool: EnvironmentPool, *, sessions: int = 64, idle_seconds: float | None = 3600.0
) -> Any:
    """Return the FastAPI application of an OpenEnv server.

    Args:
        pool: What it serves.
        sessions: WebSocket sessions at the same time; one more is refused with CAPACITY_REACHED.
        idle_seconds: Time without a message after which a session is closed; None for no limit.

    Raises:
        ConfigurationError: The package openenv is missing, or has another interface.
    """
    types = openenv_types()
    make: Any = types.environment
    try:
        from openenv.core.env_server.http_server import create_fastapi_app
        from openenv.core.env_server.types import ConcurrencyConfig
        from starlette.responses import JSONResponse

        app = create_fastapi_app(
            functools.partial(make, pool),
            types.action,
            types.observation,
            concurrency_config=ConcurrencyConfig(
                max_concurrent_envs=sessions, session_timeout=idle_seconds
            ),
            env_name=route_name(pool.env_id),
            state_cls=types.state,
        )
    except (ImportError, TypeError) as error:
        raise ConfigurationError(NEEDS.format(error)) from error

    async def refuse(request: Any, error: Exception) -> JSONResponse:
        content = {"error": type(error).__name__, "detail": redacted(str(error))}
        return JSONResponse(content, status_code=422)

    app.add_exception_handler(SearchEnvError, refuse)
    return app


def route_name(env_id: str) -> str:
    """Return the name of an id in the routes of OpenEnv's Task API.

    Example:
        >>> route_name("my_module:MySearch-v0")
        'my_module-MySearch-v0'
    """
    return env_id.replace(":", "-").replace("/", "-")


def serve(app: Any, listening: socket.socket) -> None:
    """Serve an application on a socket until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: uvicorn is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigurationError(NEEDS.format(error)) from error
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE
    )
    with suppress(KeyboardInterrupt):  # it raises the signal again when all is answered
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _named_errors() -> Iterator[None]:
    """Put the name of an error's class before its message, all that OpenEnv's sockets send."""
    try:
        yield
    except SearchEnvError as error:
        raise type(error)(f"{type(error).__name__}: {redacted(str(error))}") from error


def _refuse(unknown: dict[str, Any]) -> None:
    if unknown:
        raise ConfigurationError(
            f"Expected seed, episode_id, split, index or question_id, got {min(unknown)!r}. "
            f"{nearest(min(unknown), _FIELDS)}Omit it."
        )


def _version() -> str:
    return importlib.metadata.version("search-env")
