"""From a model folder to text: sampling, the cached loop, the local language model."""
