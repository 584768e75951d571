"""Tests of search_env.rendering."""
