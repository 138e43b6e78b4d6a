"""Sampling responses from a role: one interface, and three engines behind it that sample the same distribution."""
