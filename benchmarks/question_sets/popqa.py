"""PopQA: single facts about entities of all popularities (Mallen et al. 2023)."""

from __future__ import annotations

from search_env.benchmarks.harness.published_settings import without_evidence
from search_env.benchmarks.harness.spec import QuestionSet

SET = QuestionSet("popqa", without_evidence("popqa-test", dataset="popqa"))
