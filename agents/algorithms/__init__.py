"""Policy-gradient algorithms as pure functions: settings, advantages, losses, published presets."""
