"""What the agent does on a GPU: speed at the shapes of published models, and training at size."""
