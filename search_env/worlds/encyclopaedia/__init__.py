"""A small invented encyclopaedia, generated from a seed, with multi-hop questions and evidence.

People, places, works and organisations with invented names, related by facts of which each is
stated in one article; questions of 1 to 4 hops with unique answers. No language model can know
an answer without a search. Nothing is downloaded or stored.

    >>> world = World(articles=1000, seed=0, split="train")
    >>> document = world.document(12)
    >>> question = world.questions(4)[1]
    >>> question.kind, len(question.hops)
    ('bridge-2hop', 2)

The same arguments give the same bytes on every platform and Python and numpy version. The three
splits share no entity and no name, whatever their seeds.

The modules in the order of their imports: ``rng`` (hashing), ``syllables`` (words), ``schema``,
``creations`` and ``relations`` (kinds of entities and facts, and the English of questions),
``values`` (dates and numbers in words), ``rules`` and ``facts`` (the fact graph), ``entity_names``
(titles and mentions), ``layouts``, ``fillers`` and ``articles`` (text), ``forms``, ``english``,
``sampling`` and ``questions`` (logical forms, their words, their choice), ``world`` (the class).
"""

from search_env.worlds.encyclopaedia.world import World

__all__ = ["World"]
