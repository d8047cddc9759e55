"""What tuning fewer weights costs and gives, beside peft: the parts of `benchmarks/peft.py`."""
