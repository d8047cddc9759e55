"""Supervised stages on top of a pretrained model."""
