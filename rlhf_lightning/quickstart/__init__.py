"""The embedded default: a small data set of instructions that a program can verify, and what is made from it."""
