"""The data card: what is in a data set, for whoever trains on it or has to trust the result."""
