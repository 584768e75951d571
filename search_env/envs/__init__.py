"""The Gymnasium environments, single and vector, and how their arguments become objects."""
