"""Search over layers, ladder and thresholds: the space, replays on recorded steps, full runs."""
