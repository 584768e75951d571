"""Entries by name: registering, looking up, suggesting."""

from __future__ import annotations

import pytest

from search_env.errors import ConfigurationError, ProtocolError
from search_env.registry import Registry


def _colours(**arguments):
    return Registry("colour", "Mix your own.", {"red": 1, "blue": 2}, **arguments)


def test_a_registry_reads_as_a_mapping_in_order_of_registration():
    colours = _colours()
    colours.add("amber", 3)
    assert list(colours) == ["red", "blue", "amber"]
    assert len(colours) == 3
    assert dict(colours) == {"red": 1, "blue": 2, "amber": 3}
    assert colours["amber"] == 3
    assert colours.get("blue") == 2
    assert colours.get("green") is None
    assert colours.get("green", 7) == 7
    assert "red" in colours
    assert "green" not in colours
    assert ["red"] not in colours
    with pytest.raises(TypeError, match="item assignment"):
        colours["green"] = 4


def test_the_first_entries_are_copied():
    entries = {"red": 1}
    colours = Registry("colour", "", entries)
    colours.add("blue", 2)
    assert entries == {"red": 1}


def test_an_unknown_name_lists_the_names_and_suggests_the_nearest():
    with pytest.raises(ConfigurationError) as error:
        _colours()["bleu"]
    assert str(error.value) == (
        "Expected colour among ['red', 'blue'], got 'bleu'. Did you mean 'blue'? Mix your own."
    )
    with pytest.raises(ConfigurationError, match=r"got \['red'\]"):
        _colours()[["red"]]


def test_a_taken_name_needs_replace():
    colours = _colours()
    with pytest.raises(ConfigurationError, match="new colour name, got 'red', which is registered"):
        colours.add("red", 5)
    assert colours["red"] == 1
    colours.add("red", 5, replace=True)
    assert colours["red"] == 5
    assert list(colours) == ["red", "blue"]


def test_errors_are_of_the_kind_asked_for():
    colours = _colours(error=ProtocolError)
    with pytest.raises(ProtocolError):
        colours["green"]
    with pytest.raises(ProtocolError):
        colours.add("red", 5)
