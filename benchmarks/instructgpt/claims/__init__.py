"""Each claim of the paper, judged by the records that are there."""
