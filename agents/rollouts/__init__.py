"""Episodes played by an engine in a vector environment, and which questions to draw."""
