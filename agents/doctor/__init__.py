"""What ``search-env doctor`` examines before a long run."""
