"""The dataset card: one page that says what is in a corpus, where it came from, and what went and why.

`facts` names the numbers, `layout` turns them into places on a picture, `write` fills the two templates.
"""

from luban.data.card.facts import Amount, Facts, Sample, StageFacts, octave
from luban.data.card.write import write_card

__all__ = ["Amount", "Facts", "Sample", "StageFacts", "octave", "write_card"]
