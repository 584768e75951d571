"""Natural Questions, open: single-hop questions people asked (Kwiatkowski et al. 2019)."""
