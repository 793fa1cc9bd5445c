"""Images → features, each by an extractor whose name and protocol stand in the scores made from them."""

from __future__ import annotations

from cxr.extractor.base import Answer, Extractor, extract
from cxr.extractor.cache import cached_answer

__all__ = ["Answer", "Extractor", "cached_answer", "extract"]
