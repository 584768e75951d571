"""A language model as judge of answers, behind any OpenAI-compatible endpoint.

It sees question, gold answers and answer, and says True or False, as in R1-Searcher's ACC_L
(RUCAIBox/R1-Searcher@631167c ``evaluation/metric_calc_gpt_as_judge.py``; the wording here is our
own, so figures of the two are not the same measure). Verdicts are kept in a file by what was asked
of whom, so nothing is asked or paid twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from search_env.benchmarks.harness.errors import EndpointReplyError
from search_env.benchmarks.players.base import Decoding
from search_env.benchmarks.players.openai_endpoint import Endpoint
from search_env.benchmarks.players.text import CompletionRequest
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.paths import append, cache_dir
from search_env.types import Source

PROMPT = """\
You compare an answer with the reference answers to a question.

Question: {question}
Reference answers: {golds}
Answer: {answer}

Does the answer say the same as one of the reference answers? Other wording, spelling or more \
detail is fine; another person, place, number or date is not. Reply with one word: True or False."""
"""What the judge is asked; a verdict belongs to the whole text."""

_VERDICT = re.compile(r"\b(true|false)\b", re.IGNORECASE)
_MAX_TOKENS = 16


@dataclass(slots=True)
class Tally:
    """Verdicts requested now, verdicts that were in the file, and tokens charged by kind."""

    requested: int = 0
    remembered: int = 0
    cost: Counter[str] = field(default_factory=Counter)


class Judge:
    """Judges answers by a chat endpoint; keeps verdicts in ``path``, by default in the cache."""

    def __init__(
        self, endpoint: Endpoint, model: str, *, path: Path | None = None, concurrency: int = 8
    ) -> None:
        self._endpoint, self._model, self._concurrency = endpoint, model, concurrency
        name = hashlib.sha256(model.encode()).hexdigest()[:16]
        self._path = path or cache_dir() / "judge" / f"{name}.jsonl"
        self._verdicts = _read(self._path)

    def judge(
        self, records: Sequence[EpisodeMeasures], progress: Callable[[], None] = lambda: None
    ) -> tuple[list[EpisodeMeasures], Tally]:
        """Return the records with verdicts, wrong where there is no answer, and what they took."""
        tally = Tally()
        answers: dict[str, EpisodeMeasures] = {}
        for record in records:
            if record.answer is not None:
                answers.setdefault(self._key(record), record)
        missing = {key: record for key, record in answers.items() if key not in self._verdicts}
        tally.remembered = len(answers) - len(missing)
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = {pool.submit(self._ask, record): key for key, record in missing.items()}
            try:
                for future in as_completed(futures):
                    verdict, cost = future.result()
                    self._keep(futures[future], verdict)
                    tally.requested += 1
                    tally.cost.update(cost)
                    progress()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [replace(record, judged=self._verdict(record)) for record in records], tally

    def _verdict(self, record: EpisodeMeasures) -> float:
        return 0.0 if record.answer is None else self._verdicts[self._key(record)]

    def _key(self, record: EpisodeMeasures) -> str:
        content = json.dumps([self._model, _question(record)], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def _ask(self, record: EpisodeMeasures) -> tuple[float, dict[str, int]]:
        prompt = _question(record)
        piece = self._endpoint(
            CompletionRequest(
                prompt=prompt,
                tokens=np.zeros(0, np.int32),
                segments=[(Source.PROMPT, prompt)],
                question=record.question,
                stop=(),
                max_tokens=_MAX_TOKENS,
                decoding=Decoding(),
                seed=0,
            )
        )
        verdicts = _VERDICT.findall(piece.text)
        if not verdicts:
            raise EndpointReplyError(
                f"Expected True or False from the judge {self._model}, got {piece.text[:80]!r}. "
                "Choose a model that follows instructions."
            )
        return float(verdicts[-1].lower() == "true"), dict(piece.cost)

    def _keep(self, key: str, verdict: float) -> None:
        self._verdicts[key] = verdict
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, json.dumps({"key": key, "verdict": verdict}).encode() + b"\n")


def prompt_digest() -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of :data:`PROMPT`."""
    return hashlib.sha256(PROMPT.encode()).hexdigest()[:12]


def _question(record: EpisodeMeasures) -> str:
    golds = "; ".join(record.golds)
    return PROMPT.format(
        question=record.question, golds=golds, answer=(record.answer or "").strip()
    )


def _read(path: Path) -> dict[str, float]:
    """Return the verdicts of a file; a last line that was cut off is ended, and is no verdict."""
    if not path.is_file():
        return {}
    text = path.read_text("utf-8")
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    return dict(verdict for line in text.splitlines() if (verdict := _parse(line)) is not None)


def _parse(line: str) -> tuple[str, float] | None:
    try:
        row = json.loads(line)
        return str(row["key"]), float(row["verdict"])
    except (ValueError, KeyError, TypeError):
        return None
