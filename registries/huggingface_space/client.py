"""The client: OpenEnv's generic one, as actions and observations are plain JSON."""

from openenv.core import GenericEnvClient as SearchQAEnv

__all__ = ["SearchQAEnv"]
