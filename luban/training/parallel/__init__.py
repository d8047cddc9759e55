"""One model on many processes, by PyTorch's own engines; the model's code knows nothing of it."""
