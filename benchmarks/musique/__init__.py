"""MuSiQue, answerable, development set: two to four hops (Trivedi et al. 2022)."""
