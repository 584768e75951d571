"""BM25 over passages: built with bm25s, stored as arrays that are mapped from disk."""
