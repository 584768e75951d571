"""2WikiMultiHopQA, development set: compositions, comparisons, inferences (Ho et al. 2020)."""
