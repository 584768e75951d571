"""What the environment's own code costs: one step, bulk stepping, and published peers."""
