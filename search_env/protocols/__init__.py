"""Protocols: tags, prompts, document layout, limits and fault rules of published systems, as data.

One published system a file. :mod:`.registry` finds them by name, :mod:`.grammar` says what is well
formed, :mod:`.tagged_text` writes and reads texts with a protocol's tags.
"""
