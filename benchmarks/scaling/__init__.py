"""How time and memory of each stage grow, with exponents beside what theory says: `python -m benchmarks.scaling`."""
