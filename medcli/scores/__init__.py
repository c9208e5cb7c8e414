"""What a model costs and what its samples are worth: multiply-adds, features, scores."""
