"""Does a reward model please labelers it has not learnt from? k-fold training over labeler groups (§4.1)."""
