"""What steps, searches, rollouts and updates cost, beside published peers."""
