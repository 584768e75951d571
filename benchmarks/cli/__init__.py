"""Commands of ``search-env`` that need benchmarks, one a file."""
