"""Personal data by rules, and names by an installed model, replaced where they stand.

A C++ pass over the bytes finds windows (`candidates`), patterns and check digits decide there (`rules`, `checks`),
`replacements` says what is written instead, `names` asks a model, `planted` makes texts whose truth is known.
"""

from luban.data.steps.pii.step import Pii

__all__ = ["Pii"]
