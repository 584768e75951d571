"""The places of questions and passages, their order, and the error where none has them."""

import json
import os
import subprocess
import sys

import pytest

from search_env.datasets import find_corpus, find_questions, load_questions
from search_env.datasets.locate import DATASETS, HUB_REPOSITORY, dataset_name
from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError

FLASHRAG = {"id": "hub", "question": "q", "golden_answers": ["a"]}


def native(id, dataset="musique", split="dev"):
    row = {"id": id, "question": "q", "answers": ["a"], "dataset": dataset, "split": split}
    return {key: value for key, value in row.items() if value}


def musique(id):
    return {
        "id": id,
        "question": "q",
        "answer": "a",
        "paragraphs": [{"idx": 0, "title": "T", "paragraph_text": "x", "is_supporting": True}],
        "question_decomposition": [],
    }


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Point data and cache into the test's folder and cut the hub off."""
    monkeypatch.setenv("SEARCH_ENV_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SEARCH_ENV_CACHE", str(tmp_path / "cache"))

    def offline(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    return tmp_path


def ids(*args, **kwargs):
    return [question.id for question in load_questions(*args, **kwargs)]


class TestOrder:
    def test_each_place_gives_way_to_the_one_before(self, write, monkeypatch, places):
        hub = write("hub/dev.jsonl", [FLASHRAG])
        requests = []

        def download(repo_id, filename, *, repo_type, local_files_only):
            requests.append((repo_id, filename, repo_type))
            return str(hub)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        assert ids("musique") == ["hub"]
        assert requests == [(HUB_REPOSITORY, "musique/dev.jsonl", "dataset")]

        write("cache/datasets/musique_ans_v1.0_dev.jsonl", [musique("cache")])
        assert ids("musique") == ["cache"]
        write("cache/datasets/questions.jsonl.gz", [native("cache-combined")])
        assert ids("musique") == ["cache-combined"]
        write("data/official/musique_ans_v1.0_dev.jsonl.xz", [musique("official")])
        assert ids("musique") == ["official"]
        write("data/musique_ans_v1.0_dev.jsonl.xz", [musique("published")])
        assert ids("musique") == ["published"]
        write("data/questions.jsonl.xz", [native("combined")])
        assert ids("musique") == ["combined"]
        write("data/questions.jsonl", [native("combined-plain")])
        assert ids("musique") == ["combined-plain"]
        path = write("elsewhere.jsonl", [FLASHRAG | {"id": "path"}])
        assert ids("musique", path=path) == ids("musique", path=str(path)) == ["path"]
        assert len(requests) == 1

    def test_a_combined_file_without_the_split_is_passed_over(self, write):
        write("data/questions.jsonl", [native("1", split="train"), native("2", "hotpotqa")])
        write("data/musique_ans_v1.0_dev.jsonl", [musique("published")])
        assert ids("musique") == ["published"]
        assert ids("musique", "train") == ["1"]

    def test_a_combined_file_must_name_the_dataset(self, write):
        write("data/questions.jsonl", [native("1", dataset="")])
        with pytest.raises(DataNotFoundError, match="has nothing of musique"):
            load_questions("musique")

    @pytest.mark.parametrize(
        ("dataset", "name"),
        [
            ("bamboogle", "bamboogle.csv"),
            ("hotpotqa", "hotpot_dev_distractor_v1.json"),
            ("hotpotqa", "hotpot_dev_fullwiki_v1.json.gz"),
            ("2wikimultihopqa", "2wikimultihopqa/dev.json"),
            ("musique", "musique/dev.jsonl"),
        ],
    )
    def test_published_names(self, write, dataset, name):
        path = write(f"data/{name}", "Question,Answer\nq,a\n" if "csv" in name else [musique("1")])
        assert find_questions(dataset) == (path, "bamboogle" if "csv" in name else "musique")

    def test_the_path_may_be_a_folder(self, write, places):
        write("data/musique_ans_v1.0_dev.jsonl", [musique("data")])
        write("other/musique_ans_v1.0_dev.jsonl", [musique("other")])
        assert ids("musique", path=places / "other") == ["other"]
        with pytest.raises(
            DataNotFoundError, match=r"other: no questions\.jsonl or bamboogle\.csv"
        ):
            load_questions("bamboogle", path=places / "other")


class TestContent:
    def test_names_are_filled_in_and_others_left_out(self, write):
        rows = [native("1"), native("2", split=""), native("3", "", ""), native("4", "hotpotqa")]
        path = write("mine.jsonl", [*rows, native("5", split="train")])
        questions = load_questions("MuSiQue", path=path)
        assert [q.id for q in questions] == ["1", "2", "3"]
        assert {(q.dataset, q.split) for q in questions} == {("musique", "dev")}

    def test_a_file_may_have_a_split_of_its_own(self, write):
        path = write("mine.jsonl", [native("1", split="validation")])
        assert ids("musique", "validation", path) == ["1"]
        with pytest.raises(ConfigurationError, match=r"\(dev\) in .*, got musique \(validation\)"):
            load_questions("musique", path=path)

    def test_a_file_of_another_dataset(self, write):
        path = write("mine.jsonl", [musique("1")])
        with pytest.raises(
            ConfigurationError, match=r"hotpotqa \(dev\) in .*, got musique \(any\)"
        ):
            load_questions("hotpotqa", path=path)

    def test_a_damaged_file_is_an_error(self, write):
        write("data/questions.jsonl", [{"id": 1}])
        with pytest.raises(DataFormatError):
            load_questions("musique")


class TestNames:
    @pytest.mark.parametrize(
        ("alias", "name"),
        [
            ("2wiki", "2wikimultihopqa"),
            ("2WikiMultiHopQA", "2wikimultihopqa"),
            ("HotpotQA", "hotpotqa"),
            ("hotpot-qa", "hotpotqa"),
            ("MuSiQue-Ans", "musique"),
        ],
    )
    def test_aliases(self, alias, name):
        assert dataset_name(alias) == name

    def test_no_name_is_claimed_twice(self):
        names = [n for key, entry in DATASETS.items() for n in (key, *entry.aliases)]
        assert len(names) == len(set(names))
        assert all(entry.files for entry in DATASETS.values())

    def test_unknown_dataset(self):
        with pytest.raises(ConfigurationError, match=r"Did you mean 'bamboogle'.*read_questions"):
            load_questions("bambogle")

    def test_unknown_split(self):
        with pytest.raises(ConfigurationError, match="one of dev, train, got 'test'"):
            load_questions("musique", "test")


class TestNowhere:
    def test_questions(self, write, places):
        write("data/questions.jsonl", [native("1", split="train")])
        with pytest.raises(DataNotFoundError) as caught:
            load_questions("musique")
        message = str(caught.value)
        assert f"{places / 'data' / 'questions.jsonl'}: has train of musique" in message
        assert "no questions.jsonl or musique_ans_v1.0_dev.jsonl or musique/dev.jsonl" in message
        assert f"hub {HUB_REPOSITORY}, musique/dev.jsonl: ConnectionError" in message
        assert "Put musique_ans_v1.0_dev.jsonl into a folder and set $SEARCH_ENV_DATA" in message
        assert "$SEARCH_ENV_CACHE" in message

    def test_without_the_variable(self, monkeypatch):
        monkeypatch.delenv("SEARCH_ENV_DATA")
        with pytest.raises(DataNotFoundError, match="SEARCH_ENV_DATA: not set"):
            load_questions("bamboogle")

    def test_without_the_hub_client(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(DataNotFoundError, match="huggingface_hub is not installed"):
            load_questions("bamboogle")

    def test_with_a_path_no_other_place_is_searched(self, places):
        with pytest.raises(DataNotFoundError, match=r"none\.jsonl"):
            load_questions("musique", path=places / "none.jsonl")


class TestCorpus:
    def test_order(self, write):
        cache = write("cache/datasets/passages.jsonl.gz", [{"title": "T", "text": "x"}])
        assert find_corpus() == cache
        data = write("data/passages.jsonl.xz", [{"title": "T", "text": "x"}])
        assert find_corpus() == data
        other = write("other/passages.jsonl", [{"title": "T", "text": "x"}])
        assert find_corpus(other) == find_corpus(str(other.parent)) == other

    def test_no_place_has_a_corpus(self, places):
        with pytest.raises(DataNotFoundError, match=r"search-env index.*passages\.jsonl.*\$SEARCH"):
            find_corpus()
        with pytest.raises(DataNotFoundError, match="Check the path"):
            find_corpus(places / "none")
        places.joinpath("empty").mkdir()
        with pytest.raises(DataNotFoundError, match=r"empty: no passages\.jsonl"):
            find_corpus(places / "empty")


def test_the_real_hub_client_reads_its_cache_offline(tmp_path):
    cached = tmp_path / "hub" / f"datasets--{HUB_REPOSITORY.replace('/', '--')}"
    snapshot = cached / "snapshots" / ("0" * 40) / "musique"
    snapshot.mkdir(parents=True)
    (snapshot / "dev.jsonl").write_text(json.dumps(FLASHRAG) + "\n", encoding="utf-8")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    script = (
        "from search_env.datasets import load_questions\n"
        "from search_env.errors import DataNotFoundError\n"
        "print([(q.id, q.dataset, q.split) for q in load_questions('musique')])\n"
        "try:\n"
        "    load_questions('hotpotqa')\n"
        "except DataNotFoundError as error:\n"
        "    print('hotpotqa/dev.jsonl: LocalEntryNotFoundError' in str(error))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SEARCH_"))} | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "SEARCH_ENV_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[('hub', 'musique', 'dev')]\nTrue\n"


def test_importing_the_loaders_imports_no_client():
    script = "import sys, search_env.datasets; print('huggingface_hub' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
