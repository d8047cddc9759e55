"""Duplicates across a corpus: exact, near and shared passages; each a `CorpusStep`."""
