"""Policy-gradient algorithms: configuration, advantages, losses, published presets."""
