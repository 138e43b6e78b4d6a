"""Reading and checking rows: files to typed rows, without a tokenizer and without torch."""
