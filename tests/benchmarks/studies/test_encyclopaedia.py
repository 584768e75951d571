"""The measurement of the procedural world, on a small one."""

from __future__ import annotations

from search_env.benchmarks.studies.encyclopaedia import generation, retrieval


def test_every_size_has_a_row():
    assert [line.split(" |")[0] for line in generation((100, 200)).splitlines()[2:]] == [
        "| 100",
        "| 200",
    ]


def test_hop_queries_find_their_articles_by_kind():
    *kinds, whole = [line.strip("| ").split(" | ") for line in retrieval(200, 40).splitlines()[2:]]
    assert sum(int(kind[1]) for kind in kinds) == int(whole[1]) == 40
    assert float(whole[2]) > 0.95
    assert 0 < float(whole[3]) < float(whole[2])
