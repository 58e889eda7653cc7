"""Parallel corpora and texts for perplexity: one reader per file, alignment by id, an audit, a content hash."""

from babelscope.corpora.audit import Audit, audit
from babelscope.corpora.load import READERS, Reader, load_corpus, load_texts
from babelscope.corpora.parallel import ParallelCorpus
from babelscope.corpora.source import Source
from babelscope.corpora.texts import Document, TextCollection

__all__ = [
    "READERS",
    "Audit",
    "Document",
    "ParallelCorpus",
    "Reader",
    "Source",
    "TextCollection",
    "audit",
    "load_corpus",
    "load_texts",
]
