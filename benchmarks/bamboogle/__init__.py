"""Bamboogle: 125 compositional questions, two hops each (Press et al. 2022)."""
