r"""FlashRAG's layouts, which Search-R1 and many others share.

Questions are JSON lines ``{id, question, golden_answers, metadata?}``; of the metadata only a
``type`` is read, as ``kind``. A corpus is JSON lines ``{id, contents}`` where contents is the title
in double quotes, a newline, and the text (``"\"Aaron\"\nAaron is ..."``, as in ``wiki-18.jsonl``).
Text without a newline has no title. Texts are kept unchanged, since ids are the file's own.
"""

from __future__ import annotations

from search_env.datasets.rows import Row
from search_env.types import Document, Question


def parse_documents(row: Row) -> list[Document]:
    """Return the passage of a row."""
    title, text = split_contents(row.text("contents"))
    return [Document(row.identifier("id"), title, text)]


def split_contents(contents: str) -> tuple[str, str]:
    r"""Return title and text of FlashRAG's ``contents``.

    Example:
        >>> split_contents('"Aaron"\nAaron is a prophet.')
        ('Aaron', 'Aaron is a prophet.')
        >>> split_contents("No title here.")
        ('', 'No title here.')
    """
    title, newline, text = contents.partition("\n")
    if not newline:
        return "", contents
    quoted = len(title) >= 2 and title[0] == title[-1] == '"'
    return (title[1:-1] if quoted else title), text


def parse_question(row: Row) -> Question:
    """Return the question of a row; ``dataset`` and ``split`` stay empty."""
    metadata = row.data.get("metadata")
    kind = metadata.get("type") if isinstance(metadata, dict) else None
    return Question(
        id=row.identifier("id"),
        text=row.text("question"),
        answers=row.answers("golden_answers"),
        kind=kind if isinstance(kind, str) else "",
    )
