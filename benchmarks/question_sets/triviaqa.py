"""TriviaQA, unfiltered: trivia of one hop with many aliases (Joshi et al. 2017)."""

from __future__ import annotations

from benchmarks.harness.published_settings import without_evidence
from benchmarks.harness.spec import QuestionSet

SET = QuestionSet("triviaqa", without_evidence("triviaqa-test", dataset="triviaqa"))
