"""Every step by the name that recipes call it."""

from __future__ import annotations

from typing import Any

from luban.data.dedup.crossing import Crossing
from luban.data.dedup.exact import Exact
from luban.data.dedup.minhash import MinHash
from luban.data.dedup.paragraphs import Paragraphs
from luban.data.dedup.simhash import SimHash
from luban.data.dedup.substrings import Substrings
from luban.data.dedup.urls import UrlDuplicates
from luban.data.factory.split import Split
from luban.data.steps.c4 import C4
from luban.data.steps.chinese import Chinese
from luban.data.steps.code_rules import Code
from luban.data.steps.decontaminate import Decontaminate
from luban.data.steps.extract import Extract
from luban.data.steps.fineweb import FineWeb
from luban.data.steps.gopher import GopherQuality, GopherRepetition
from luban.data.steps.language import Language
from luban.data.steps.length import Length
from luban.data.steps.lines import LineCorrections
from luban.data.steps.loops import Loops
from luban.data.steps.normalise import Normalise
from luban.data.steps.perplexity import Perplexity, PerplexityBuckets
from luban.data.steps.pii.step import Pii
from luban.data.steps.quality import Quality, QualityShare
from luban.data.steps.roots import Roots
from luban.data.steps.toxicity import Toxicity
from luban.data.steps.url import UrlFilter

STEPS: dict[str, type[Any]] = {
    "url_filter": UrlFilter,
    "extract": Extract,
    "normalise": Normalise,
    "length": Length,
    "language": Language,
    "gopher_quality": GopherQuality,
    "gopher_repetition": GopherRepetition,
    "c4": C4,
    "fineweb": FineWeb,
    "roots": Roots,
    "line_corrections": LineCorrections,
    "loops": Loops,
    "chinese": Chinese,
    "code": Code,
    "toxicity": Toxicity,
    "perplexity": Perplexity,
    "perplexity_buckets": PerplexityBuckets,
    "quality": Quality,
    "quality_share": QualityShare,
    "pii": Pii,
    "decontaminate": Decontaminate,
    "exact": Exact,
    "url_duplicates": UrlDuplicates,
    "paragraphs": Paragraphs,
    "minhash": MinHash,
    "simhash": SimHash,
    "substrings": Substrings,
    "split": Split,
    "crossing": Crossing,
}
