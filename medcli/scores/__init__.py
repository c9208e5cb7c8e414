"""Features and scores of samples: FID, sFID, Inception Score, precision, recall, KID."""
