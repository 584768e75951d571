"""A small invented encyclopaedia, made from a seed, with multi-hop questions and their evidence.

People, places, works and organisations with invented names, related by facts that are each
stated in one article; questions of 1 to 4 hops with unique answers. No language model can know
an answer: the only way is to search. Nothing is downloaded and nothing is stored.

    >>> world = World(articles=1000, seed=0, split="train")
    >>> document = world.document(12)
    >>> question = world.questions(4)[1]
    >>> question.kind, len(question.hops)
    ('bridge-2hop', 2)

The same arguments give the same bytes on every platform and Python and numpy version. The three
splits share no entity and no name, whatever their seeds.

How the files build on each other: ``rng`` (hashing) - ``names`` (words) - ``schema``,
``creations``, ``relations`` (kinds of entities and facts, and the English of questions) -
``values`` (dates and numbers in words) - ``rules``, ``facts``
(the fact graph) - ``naming`` (titles and mentions) - ``layouts``, ``fillers``, ``articles`` (text)
- ``forms``, ``english``, ``sampling``, ``questions`` (logical forms, their words, their choice) -
``world`` (the class). It does no retrieval.
"""

from search_env.worlds.encyclopaedia.world import World

__all__ = ["World"]
