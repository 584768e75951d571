"""Search-augmented question answering as a token-level, multi-turn Gymnasium environment.

Importing this package registers its ids with Gymnasium:

    >>> import gymnasium as gym
    >>> import search_env
    >>> env = gym.make("SearchQA-Toy-v0")
    >>> observation, info = env.reset(seed=0)
    >>> info["stop_reason"], info["num_searches"]
    ('', 0)
"""

from search_env.env import EnvState, SearchQAEnv
from search_env.errors import SearchEnvError
from search_env.protocols import Protocol, get_protocol, register_protocol
from search_env.registration import register_environments
from search_env.retrieval.base import FakeRetriever, Retriever
from search_env.rewards import Reward, get_reward, register_reward
from search_env.tasks import register_retriever
from search_env.tokenizer import Tokenizer, load_tokenizer
from search_env.types import (
    Answered,
    Document,
    Ended,
    FaultKind,
    FormatFault,
    Hop,
    Markup,
    Question,
    Searched,
    Source,
    StopReason,
    Tag,
    TagPair,
    TagRole,
    TagWritten,
    Transcript,
)
from search_env.vector_env import SearchQAVectorEnv, VectorState

__version__ = "0.1.0"

__all__ = [
    "Answered",
    "Document",
    "Ended",
    "EnvState",
    "FakeRetriever",
    "FaultKind",
    "FormatFault",
    "Hop",
    "Markup",
    "Protocol",
    "Question",
    "Retriever",
    "Reward",
    "SearchEnvError",
    "SearchQAEnv",
    "SearchQAVectorEnv",
    "Searched",
    "Source",
    "StopReason",
    "Tag",
    "TagPair",
    "TagRole",
    "TagWritten",
    "Tokenizer",
    "Transcript",
    "VectorState",
    "get_protocol",
    "get_reward",
    "load_tokenizer",
    "register_protocol",
    "register_retriever",
    "register_reward",
]

register_environments()
