"""Protocols: tags, prompts, document layout, limits and fault rules of published systems, as data.

One published system per file. :mod:`.registry` holds them by name, :mod:`.grammar` defines
well-formed episodes, :mod:`.tagged_text` writes texts with a protocol's tags.
"""
