"""Stage 2: the reward model on K-wise rankings (§3.5 Eq. 1, C.2). Data, loss, metrics, then the module."""
