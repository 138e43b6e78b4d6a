"""Slow references in float64, written as loops from the papers' formulas, and the package's functions against them."""
