"""The rules of ``metrics.answers`` again, from their description and without its helpers."""

import re
import string

from search_env.metrics.answers import R1_SEARCHER, SQUAD


def slow_normalize(text, rule):
    if rule is R1_SEARCHER:
        text = {"True": "yes", "False": "no"}.get(text, text).replace("_", " ").lower()
        text = "".join(" " if c in string.punctuation + "‘’´`" else c for c in text)
    else:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def slow_f1(prediction, gold, rule):
    p, g = slow_normalize(prediction, rule), slow_normalize(gold, rule)
    special = ("yes", "no", "noanswer")
    if rule is not SQUAD and p != g and (p in special or g in special):
        return 0.0
    left = g.split()
    same = 0
    for token in p.split():
        if token in left:
            left.remove(token)
            same += 1
    return 2 * same / (len(p.split()) + len(g.split())) if same else 0.0


def slow_cover(prediction, gold, rule):
    said = slow_normalize(prediction, rule).split(" ")
    return float(all(token in said for token in slow_normalize(gold, rule).split(" ")))


def slow_contiguous(prediction, gold, rule):
    p, g = slow_normalize(prediction, rule).split(), slow_normalize(gold, rule).split()
    if not g:
        return float(not p)
    runs = any(p[i : i + len(g)] == g for i in range(len(p)))
    return float(runs or " ".join(g) in " ".join(p))


def slow_exact(prediction, gold, rule):
    return float(slow_normalize(prediction, rule) == slow_normalize(gold, rule))


def last_answer(text):
    spans = re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", text, re.DOTALL)
    return spans[-1].strip() if spans else None
