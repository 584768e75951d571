"""What a run shows: logs, live display, plots, the summary at its end."""
