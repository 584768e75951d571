"""HotpotQA, development set: bridges and comparisons of two hops (Yang et al. 2018)."""
