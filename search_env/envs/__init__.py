"""The Gymnasium environments, single and vector, and the loading of what their arguments name."""
