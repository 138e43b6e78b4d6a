"""InstructGPT's three stages (arXiv 2203.02155) as a Lightning trainer: SFT, reward model, PPO."""

__version__ = "0.1.0"
