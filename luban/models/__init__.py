"""One file per model family: config, wiring, Hugging Face names."""
