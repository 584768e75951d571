"""What scores depend on: protocols, settings, files of results, measures, ablations."""
