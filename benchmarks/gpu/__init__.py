"""What only a GPU can show: decoding and update as shares of what the card can do, and the largest model that fits."""
