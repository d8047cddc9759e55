"""The parts of `benchmarks/data.py`: one module per comparison, each with `run(options)`."""
