"""``search-env serve``: any retriever behind the wire formats of published systems.

* :mod:`~search_env.retrieval.server.batching`: queries of all clients in common batches, equal ones
  once, a bounded queue, an exact cache.
* :mod:`~search_env.retrieval.server.app`: paths, requests and replies.
* :mod:`~search_env.retrieval.server.metrics`: what ``/metrics`` tells.
* :mod:`~search_env.retrieval.server.run`: socket, worker processes, signals.
* :mod:`~search_env.retrieval.server.mcp_tool`: the tool ``search`` for MCP clients.
"""
