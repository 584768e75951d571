"""TriviaQA, unfiltered: trivia of one hop with many aliases (Joshi et al. 2017)."""

from __future__ import annotations

from search_env.benchmarks.harness.published_settings import without_evidence
from search_env.benchmarks.harness.spec import QuestionSet

SET = QuestionSet("triviaqa", without_evidence("triviaqa-test", dataset="triviaqa"))
