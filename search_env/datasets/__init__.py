"""Questions and passages: loaders of published layouts, and where to find the files.

* :func:`load_questions` loads a known dataset by name, :func:`find_questions` finds its file;
* :func:`read_questions` and :func:`read_documents` stream any file in a known layout;
* :func:`find_corpus` finds the file of passages to search in.

One module of ``loaders`` parses the rows of each layout, ``detect`` names the layouts and reads
them, ``streaming`` opens the files and ``locate`` finds them. Generated questions and articles
come from ``search_env.worlds.encyclopaedia``.
"""

from search_env.datasets.detect import (
    CORPUS_FORMATS,
    QUESTION_FORMATS,
    read_documents,
    read_questions,
)
from search_env.datasets.locate import find_corpus, find_questions, load_questions
from search_env.datasets.rows import document_id

__all__ = [
    "CORPUS_FORMATS",
    "QUESTION_FORMATS",
    "document_id",
    "find_corpus",
    "find_questions",
    "load_questions",
    "read_documents",
    "read_questions",
]
