"""Search-augmented question answering as a token-level, multi-turn Gymnasium environment.

Importing this package registers its ids with Gymnasium:

    >>> import gymnasium as gym
    >>> import search_env
    >>> env = gym.make("SearchQA-Toy-v0")
    >>> observation, info = env.reset(seed=0)
    >>> info["stop_reason"], info["num_searches"]
    ('', 0)
"""

from search_env.envs.registration import register_environments
from search_env.envs.search_qa import EnvState, SearchQAEnv
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.envs.vector_rows import VectorState
from search_env.errors import SearchEnvError
from search_env.protocols.protocol import Protocol
from search_env.protocols.registry import get_protocol, register_protocol
from search_env.provenance import package_version
from search_env.retrieval.base import FakeRetriever, Retriever
from search_env.retrieval.registry import register_retriever, register_retriever_scheme
from search_env.rewards import Reward, get_reward, register_reward
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import (
    Answered,
    Document,
    Ended,
    FaultKind,
    FormatFault,
    Hop,
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

__version__ = package_version()

__all__ = [
    "Answered",
    "Document",
    "Ended",
    "EnvState",
    "FakeRetriever",
    "FaultKind",
    "FormatFault",
    "Hop",
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
    "register_retriever_scheme",
    "register_reward",
]

register_environments()
