"""The sides of `benchmarks/ppo.py`: one iteration of reinforcement, here and elsewhere."""
