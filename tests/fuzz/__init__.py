"""A fuzzer of the environments: random arguments, structured policies, faulty retrievers.

A *case* is a seed's worth of arguments and a scenario that plays some hundred steps with them and
checks every result: against the rules written once more (:mod:`tests.fuzz.model`), against the
single environment, against a restored copy. The suite plays some cases; many more are played with
``python -m tests.fuzz --steps 1000000 --seed 0``.
"""
