"""The procedural world: invented articles, so that nothing can be known without a search."""
