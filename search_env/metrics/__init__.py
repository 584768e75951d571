"""Answer scores and statistics of means: pure functions of texts and numbers."""
