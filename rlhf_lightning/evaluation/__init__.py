"""Judging models: the same prompts and random numbers for all, and intervals over prompts."""
