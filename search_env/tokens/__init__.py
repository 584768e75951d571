"""Ids and bytes: tokenizers, and the automaton that finds tags in token ids."""
