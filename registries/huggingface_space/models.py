"""Actions and observations, as search_env defines them."""

from search_env.agents.bridges.openenv import openenv_types

SearchQAAction = openenv_types().action
SearchQAObservation = openenv_types().observation
