"""Luban: raw text to a language model that is aligned, evaluated and served.

Importing this package is cheap on purpose (no torch): every stage imports what it needs.
"""

__version__ = "0.1.0"
