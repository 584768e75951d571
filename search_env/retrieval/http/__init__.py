"""Search servers over HTTP: a client, and the wire formats of published systems.

* :mod:`~search_env.retrieval.http.client`: the retriever behind ``retriever="http://..."``.
* :mod:`~search_env.retrieval.http.address`: what such a name says, and what it may not.
* :mod:`~search_env.retrieval.http.dialects`: the table of dialects.
* one file for each dialect or family: requests to bytes and bytes to documents, without I/O, for
  the client's side; where others speak it to a server of ours, for the server's side too.
"""
