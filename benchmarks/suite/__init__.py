"""Ten small experiments that say how good an algorithm is, and at what."""
