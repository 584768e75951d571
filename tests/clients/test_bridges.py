"""The bridges against the packages of other trainers, each where its package is installed.

``python scripts/test_bridges.py --only NAME`` makes an environment that has one and runs its tests,
whose names begin with it. With $BRIDGE_LINES the lines of the conformance check are appended there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from search_env.agents.bridges.conformance import CASES, Case, Outcome, check, reference
from search_env.agents.bridges.session import EnvironmentPool
from search_env.errors import ConfigurationError
from search_env.types import Source

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, when they are imported
TOY = "SearchQA-Toy-v0"
ROOT = Path(__file__).parents[2]
TOY_CASES = [case for case in CASES if case.env_id == TOY]


def loaded(path: Path):
    """Return a script as a module; some packages install a package called scripts themselves."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


block = loaded(ROOT / "scripts" / "test_bridges.py").block
ENDING = [case for case in CASES if reference(case).stop_reason]


def needed(name: str):
    """Return a package, or skip where it cannot be imported."""
    return pytest.importorskip(name, exc_type=ImportError)


def conforms(door: str, play, cases=CASES) -> None:
    """Check a door, and note the lines for the report."""
    lines = check(door, play, cases)
    place = os.environ.get("BRIDGE_LINES")
    if place:
        with Path(place).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def run_block(name: str, **names) -> dict:
    """Run the page's example; return what it defined."""
    code = block(name)
    assert code, f"docs/bridges.md has no block {name}"
    assert code.count("\n") <= 30
    namespace = {"__name__": "page", **names}
    exec(compile(code, f"docs/bridges.md, {name}", "exec"), namespace)
    return namespace


# ------------------------------------------------------------------------------------ OpenEnv


@contextmanager
def openenv_server(env_id: str = TOY, arguments=None, **options):
    """Serve in a thread; yield the address and the application."""
    import uvicorn

    from search_env.agents.bridges.openenv import create_app
    from search_env.retrieval.server.run import open_socket

    app = create_app(EnvironmentPool(env_id, arguments or {}), **options)
    listening = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def openenv_client(url: str):
    """Return a client that blocks."""
    from openenv.core import GenericEnvClient

    client = GenericEnvClient(base_url=url)
    return client.sync() if hasattr(client, "sync") else client


def outcome_of_openenv(results) -> Outcome:
    """Return the outcome of what a client received."""
    tokens = [t for r in results for t in r.observation["tokens"]]
    sources = [s for r in results for s in r.observation["sources"]]
    last = results[-1]
    metadata = last.observation["metadata"]
    truncated = metadata["truncated"]
    return Outcome(
        tokens=tuple(tokens),
        mask=tuple(int(s == Source.POLICY) for s in sources),
        reward=sum(r.reward or 0.0 for r in results),
        terminated=last.done and not truncated,
        truncated=truncated,
        stop_reason=metadata["stop_reason"],
    )


def play_openenv(client, case: Case) -> Outcome:
    results = [client.reset(seed=case.seed, split=case.split, index=case.index)]
    for segment in case.ids():
        if results[-1].done:
            break
        results.append(client.step({"tokens": segment}))
    return outcome_of_openenv(results)


def test_openenv_page():
    needed("openenv")
    with openenv_server() as url:
        run_block("openenv", url=url)


def test_openenv_conforms_in_process_and_over_sockets():
    needed("openenv")
    from search_env.agents.bridges.openenv import openenv_types

    types = openenv_types()

    def direct(case: Case) -> Outcome:
        env = types.environment(EnvironmentPool(case.env_id, case.arguments))
        results = [env.reset(seed=case.seed, split=case.split, index=case.index)]
        for segment in case.ids():
            if results[-1].done:
                break
            results.append(env.step(types.action(tokens=segment)))
        shown = [
            SimpleNamespace(observation=r.model_dump(), reward=r.reward, done=r.done)
            for r in results
        ]
        return outcome_of_openenv(shown)

    def served(case: Case) -> Outcome:
        with (
            openenv_server(case.env_id, case.arguments) as url,
            openenv_client(url) as client,
        ):
            return play_openenv(client, case)

    conforms("OpenEnv in process", direct)
    conforms("OpenEnv over a WebSocket", served)


def test_openenv_http_is_stateless_and_plays_from_the_task():
    needed("openenv")
    import requests

    case = CASES[2]
    with openenv_server() as url:

        def play(case: Case) -> Outcome:
            ids = case.ids()[0]
            task = {"seed": case.seed, "split": case.split, "index": case.index}
            body = {"action": {"tokens": ids}, **{k: v for k, v in task.items() if v is not None}}
            reply = requests.post(f"{url}/step", json=body, timeout=20).json()
            result = SimpleNamespace(
                observation=reply["observation"], reward=reply["reward"], done=reply["done"]
            )
            return outcome_of_openenv([result])

        first = [Case(c.name, c.env_id, c.segments[:1], c.seed, c.index) for c in TOY_CASES]
        conforms("OpenEnv over HTTP, one step", play, first)
        reply = requests.post(f"{url}/step", json={"action": {"tokens": case.ids()[0]}}, timeout=20)
        assert reply.status_code == 422
        assert reply.json()["error"] == "EpisodeOverError"


def test_openenv_tasks_have_no_answers():
    needed("openenv")
    import requests

    with openenv_server() as url:
        names = requests.get(f"{url}/{TOY}/splits", timeout=20).json()
        assert [split["name"] for split in names] == ["train", "validation", "test"]
        count = requests.post(f"{url}/{TOY}/num_tasks", json={"split": "test"}, timeout=20).json()
        assert count["num_tasks"] == 64
        body = {"split": "train", "index": 9}
        task = requests.post(f"{url}/{TOY}/task", json=body, timeout=20).json()["task"]
        assert task["question"] == "find key1 key1"
        assert "answers" not in task
        body = {"split": "train", "index": 64}
        assert requests.post(f"{url}/{TOY}/task", json=body, timeout=20).status_code == 400
        wrong = requests.post(f"{url}/{TOY}/num_tasks", json={"split": "tset"}, timeout=20)
        assert wrong.status_code == 422
        assert "Did you mean 'test'" in wrong.json()["detail"]
        with openenv_client(url) as client:
            result = client.reset(split="train", index=9)
            assert result.observation["metadata"]["question_id"] == task["id"]


def test_openenv_names_errors_and_goes_on():
    needed("openenv")
    with openenv_server() as url, openenv_client(url) as client:
        for action, name in (
            ({"tokens": [0]}, "EpisodeOverError"),
            ({"tokens": ["a"]}, "VALIDATION_ERROR"),
            ({"tokens": [True]}, "VALIDATION_ERROR"),
            ({"words": "x"}, "VALIDATION_ERROR"),
        ):
            with pytest.raises(Exception, match=name):
                client.step(action)
        with pytest.raises(Exception, match=r"ConfigurationError.*Did you mean 'index'"):
            client.reset(indx=9)
        with pytest.raises(Exception, match=r"ConfigurationError.*seed"):
            client.reset(seed=-1)
        client.reset(split="train", index=9)
        for action in ({"tokens": [99]}, {"tokens": []}, {}, {"text": "a", "tokens": [1]}):
            with pytest.raises(Exception, match="InvalidActionError"):
                client.step(action)
        assert client.step({"text": "<q>key1 key1 </q>"}).observation["text"] == "<d>value0 </d>"
        assert client.step({"text": "<a>value0 </a>"}).reward == 1.0
        with pytest.raises(Exception, match="EpisodeOverError"):
            client.step({"tokens": [0]})


def test_openenv_refuses_one_session_too_many_and_frees_those_that_vanish():
    needed("openenv")
    from websockets.sync.client import connect

    def reset(socket) -> dict:
        socket.send(json.dumps({"type": "reset", "data": {"seed": 0}}))
        return json.loads(socket.recv(timeout=20))

    with openenv_server(sessions=2) as url:
        address = url.replace("http", "ws") + "/ws"
        first, second = connect(address), connect(address)
        assert reset(first)["type"] == reset(second)["type"] == "observation"
        with connect(address) as third:
            refused = json.loads(third.recv(timeout=20))
        assert refused["data"]["code"] == "CAPACITY_REACHED"
        first.socket.shutdown(2)  # no closing handshake: the client is gone
        first.socket.close()
        for _ in range(200):
            with connect(address) as again:
                reply = reset(again)
            if reply["type"] == "observation":
                break
            time.sleep(0.05)
        assert reply["type"] == "observation"
        second.close()


def test_openenv_validates():
    needed("openenv")
    from openenv.cli._validation import validate_running_environment

    with openenv_server() as url:
        found = validate_running_environment(url)
    assert found["passed"], found["summary"]


def test_openenv_of_another_version_is_named(monkeypatch):
    import search_env.agents.bridges.openenv as bridge

    module = pytest.MonkeyPatch()
    with module.context() as patch:
        bridge.openenv_types.cache_clear()
        patch.setitem(__import__("sys").modules, "openenv.core.env_server.interfaces", None)
        with pytest.raises(ConfigurationError, match=r"search-env\[openenv\]"):
            bridge.openenv_types()
    bridge.openenv_types.cache_clear()


# ------------------------------------------------------------------------------ TorchRL, RLlib


def test_torchrl_page():
    needed("torchrl")
    run_block("torchrl")


def test_torchrl_conforms():
    needed("torchrl")
    import torch

    from search_env.agents.bridges.flat import torchrl_env

    def play(case: Case) -> Outcome:
        env = torchrl_env(case.env_id, case.options(), mask=case.env_id == TOY)
        if case.index is not None:  # TorchRL passes options on as keywords of reset
            data = env.reset(seed=case.seed, options={"index": case.index})
        else:
            data = env.reset(seed=case.seed)
        total, over = 0.0, False
        bare = env.base_env._env.unwrapped
        for segment in case.ids():
            for token in segment:
                before = int(data["length"])
                data = env.step(data.set("action", torch.tensor(token)))["next"]
                total += float(data["reward"])
                over = bool(data["done"])
                if over or int(data["length"]) > before + 1:
                    break
            if over:
                break
        length = int(data["length"])
        stop = bare.transcript().stop_reason
        return Outcome(
            tokens=tuple(data["tokens"][:length].tolist()),
            mask=tuple((data["sources"][:length] == int(Source.POLICY)).int().tolist()),
            reward=total,
            terminated=bool(data["terminated"]),
            truncated=bool(data["truncated"]),
            stop_reason="" if stop is None else stop.value,
        )

    conforms("TorchRL", play)


def test_torchrl_random_actions_follow_the_mask():
    needed("torchrl")
    from torchrl.envs.utils import check_env_specs

    from search_env.agents.bridges.flat import torchrl_env

    env = torchrl_env(TOY)
    check_env_specs(env)
    rollout = env.rollout(50, break_when_any_done=False)
    masks, actions = rollout["action_mask"], rollout["action"]
    assert masks.gather(-1, actions.unsqueeze(-1)).all()
    assert not masks.all()


def test_rllib_page():
    needed("ray.rllib")
    run_block("rllib")


def test_rllib_conforms():
    needed("ray.rllib")
    import numpy as np

    from search_env.agents.bridges.flat import rllib_env

    def play(case: Case) -> Outcome:
        config = {"env_id": case.env_id, "arguments": case.options(), "mask": case.env_id == TOY}
        env = rllib_env(config)
        bare = env.unwrapped
        options = {} if case.index is None else {"index": case.index}
        observation, _ = env.reset(seed=case.seed, options=options)
        total, terminated, truncated = 0.0, False, False
        for segment in case.ids():
            for token in segment:
                before = len(bare.transcript().tokens)
                observation, reward, terminated, truncated, _ = env.step(token)
                total += float(reward)
                if terminated or truncated or len(bare.transcript().tokens) > before + 1:
                    break
            if terminated or truncated:
                break
        vector = observation["observations"] if isinstance(observation, dict) else observation
        categories = bare.components.size + 1
        window = vector.reshape(-1, categories).argmax(1)
        transcript = bare.transcript()
        stop = transcript.stop_reason
        return Outcome(
            tokens=tuple(window[window < categories - 1].tolist()),
            mask=tuple((np.asarray(transcript.sources) == Source.POLICY).astype(int).tolist()),
            reward=total,
            terminated=terminated,
            truncated=truncated,
            stop_reason="" if stop is None else stop.value,
        )

    conforms("RLlib", play, TOY_CASES)


# -------------------------------------------------------------------------------------- TRL


def test_trl_page(tmp_path):
    needed("trl")
    run_block("trl", folder=str(tmp_path))


def test_trl_tools_conform():
    """A text clock: the case's texts are those that the tools write."""
    needed("trl")
    from search_env.agents.bridges.trl import SearchTools
    from search_env.protocols.registry import get_protocol
    from search_env.protocols.tagged_text import answer_text, query_text

    def case_of(name, env_id, query, answer, **more) -> Case:
        protocol = get_protocol(more.get("arguments", {}).get("protocol", "toy"))
        texts = (query_text(protocol, query), answer_text(protocol, answer))
        return Case(name, env_id, texts, **more)

    searched = {"protocol": "search-r1", "max_tokens": 4096}
    cases = [
        case_of("tools on the toy", TOY, "key1 key1", "value0", index=9),
        case_of("tools, Search-R1", "SearchQA-v0", "river", "x", index=4, arguments=searched),
    ]
    calls = {cases[0].name: ("key1 key1", "value0"), cases[1].name: ("river", "x")}

    def play(case: Case) -> Outcome:
        tools = SearchTools(EnvironmentPool(case.env_id, case.arguments))
        tools.reset(prompt="x", seed=case.seed, split=case.split, index=case.index)
        query, answer = calls[case.name]
        tools.search(query=query)
        tools.answer(text=answer)
        transcript = tools._session.env.transcript()
        stop = transcript.stop_reason
        return Outcome(
            tokens=tuple(transcript.tokens.tolist()),
            mask=tuple((transcript.sources == Source.POLICY).astype(int).tolist()),
            reward=tools.get_reward(),
            terminated=stop.terminated,
            truncated=not stop.terminated,
            stop_reason=stop.value,
        )

    conforms("TRL environment_factory", play, cases)


def trl_rollouts(prompts, limit=64):
    """Return the columns of exact rollouts of a random model on the toy."""
    import torch
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM

    from search_env.agents.bridges.trl import ExactRollouts
    from search_env.agents.models import tiny_config

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(24))
    trainer = SimpleNamespace(
        model=model,
        accelerator=Accelerator(cpu=True),
        args=SimpleNamespace(max_completion_length=limit),
    )
    return ExactRollouts(TOY, {"split": "train"}, num_envs=4)(prompts, trainer)


def test_trl_rollouts_conform():
    needed("trl")
    prompts = ["toy-train-09"] * 4 + ["toy-train-00"] * 4
    columns = trl_rollouts(prompts)
    played = zip(
        *(
            columns[n]
            for n in ("prompt_ids", "completion_ids", "env_mask", "env_reward", "logprobs")
        ),
        strict=False,
    )
    seen = {}
    cases = []
    for number, (prompt, completion, mask, reward, logs) in enumerate(played):
        own = tuple((t,) for t, m in zip(completion, mask, strict=True) if m)
        case = Case(f"rollout {number}", TOY, (), index=9 if number < 4 else 0, tokens=own)
        cases.append(case)
        right = reference(case)
        seen[case.name] = Outcome(
            tokens=(*prompt, *completion),
            mask=(*[0] * len(prompt), *mask),
            reward=reward,
            terminated=right.terminated,  # TRL has neither
            truncated=right.truncated,
            stop_reason=right.stop_reason,
        )
        assert right.stop_reason
        assert all(log < 0 for log, m in zip(logs, mask, strict=True) if m)
    conforms("TRL rollout_func", lambda case: seen[case.name], cases)
    assert len({tuple(ids) for ids in columns["completion_ids"]}) > 1


def test_trl_rollouts_refuse_what_cannot_be_learnt():
    needed("trl")
    with pytest.raises(ConfigurationError, match="task_rows"):
        trl_rollouts(["what is this?"])
    with pytest.raises(ConfigurationError, match="max_completion_length=1 "):
        trl_rollouts(["toy-train-09"] * 4, limit=1)


def test_trl_trains_two_updates():
    needed("trl")
    from search_env.agents.examples import trl_search

    curve = trl_search.train(2, questions=2, group_size=4)
    assert len(curve) == 1
    assert 0.0 <= curve[0]["reward"] <= 1.0


# -------------------------------------------------------------------------------------- verl


class VerlServer:
    """Speaks what verl's server does: samples the segments of a case, then ends the sequence."""

    def __init__(self, segments: list[list[int]], log_probs: bool = True) -> None:
        self.segments, self.log_probs, self.calls = iter(segments), log_probs, []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        self.calls.append((request_id, list(prompt_ids), sampling_params))
        ids = next(self.segments)
        logs = [-0.25] * len(ids) if self.log_probs else None
        return SimpleNamespace(token_ids=ids, log_probs=logs)


def verl_loop(case: Case, server, prompt=4096, response=4096, tokenizer=None):
    """Return a loop as verl's worker instantiates it."""
    from search_env.agents.bridges.verl import SearchAgentLoop

    rollout = SimpleNamespace(prompt_length=prompt, response_length=response)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))
    own = EnvironmentPool(case.env_id, case.arguments).environment().tokenizer
    encode = lambda text, add_special_tokens: own.encode(text).tolist()  # noqa: E731
    return SearchAgentLoop(
        trainer_config=SimpleNamespace(config=config),
        server_manager=server,
        tokenizer=tokenizer or SimpleNamespace(encode=encode),
        processor=None,
        dataset_cls=None,
        data_config=None,
        hf_model_type="qwen2",
        tools=None,
        env_id=case.env_id,
        env_options=dict(case.arguments),
    )


def task_of(case: Case) -> dict:
    task = {"seed": case.seed, "split": case.split, "index": case.index}
    return {"extra_info": {k: v for k, v in task.items() if v is not None}, "index": 0, "uid": "u"}


def play_verl(case: Case, fields_only: bool) -> Outcome:
    server = VerlServer(case.ids())
    loop = verl_loop(case, server, prompt=30_000, response=30_000)
    if fields_only:
        episode, seconds = asyncio.run(loop.play({"temperature": 1.0}, task_of(case)))
        fields = loop.fields(episode, seconds)
    else:
        fields = asyncio.run(loop.run({"temperature": 1.0}, **task_of(case))).model_dump()
    assert len({request for request, _, _ in server.calls}) == 1
    assert server.calls[0][1] == fields["prompt_ids"]
    assert "stop" in server.calls[0][2]
    logs = fields["response_logprobs"]
    assert logs == [-0.25 if own else 0.0 for own in fields["response_mask"]]
    extra = fields["extra_fields"]
    return Outcome(
        tokens=(*fields["prompt_ids"], *fields["response_ids"]),
        mask=(*[0] * len(fields["prompt_ids"]), *fields["response_mask"]),
        reward=fields["reward_score"],
        terminated=not extra["truncated"],
        truncated=extra["truncated"],
        stop_reason=extra["stop_reason"],
    )


def test_verl_contract_without_verl():
    """What verl's classes ask for, as version 0.9.1 declares it; no verl needed."""
    check("verl agent loop", lambda case: play_verl(case, fields_only=True), ENDING)


def test_verl_refuses_what_would_train_wrongly():
    case = CASES[0]
    with pytest.raises(ConfigurationError, match="prompt_length"):
        verl_loop(case, None, prompt=4, response=8)
    other = SimpleNamespace(encode=lambda text, add_special_tokens: [1, 2, 3])
    with pytest.raises(ConfigurationError, match="verl's tokenizer"):
        verl_loop(case, None, tokenizer=other)
    loop = verl_loop(case, VerlServer(case.ids()))
    with pytest.raises(ConfigurationError, match="different questions"):
        asyncio.run(loop.play({}, {"index": 3}))


def test_verl_page(tmp_path):
    needed("pandas")
    needed("pyarrow")
    run_block("verl", folder=str(tmp_path))


def test_verl_conforms():
    """With verl's own output class, and the signatures of its base class."""
    needed("verl")
    loops = needed("verl.experimental.agent_loop.agent_loop")
    from search_env.agents.bridges.verl import SearchAgentLoop

    asked = set(inspect.signature(loops.AgentLoopBase.__init__).parameters) - {"self", "kwargs"}
    assert asked <= set(inspect.signature(SearchAgentLoop.__init__).parameters)
    conforms("verl agent loop", lambda case: play_verl(case, fields_only=False), ENDING)


# ---------------------------------------------------------------------------------- the others


def test_tinker_page():
    needed("tinker_cookbook.rl.types")
    SearchEnv = run_block("tinker")["SearchEnv"]

    def play(case: Case) -> Outcome:
        async def run() -> Outcome:
            pool = EnvironmentPool(case.env_id, case.arguments)
            env = SearchEnv(pool, seed=case.seed, split=case.split, index=case.index)
            observation, _ = await env.initial_observation()
            reward, ended, metrics = 0.0, False, {}
            own = []
            for segment in case.ids():
                if ended:
                    break
                before = observation.length
                result = await env.step(segment)
                observation, ended, metrics = (
                    result.next_observation,
                    result.episode_done,
                    result.metrics,
                )
                reward += result.reward
                own.append((before, segment))
            ids = observation.to_ints()
            transcript = env.session.env.transcript()
            stop = transcript.stop_reason
            assert metrics == ({f"end/{stop.value}": 1.0} if stop else {})
            return Outcome(
                tokens=tuple(ids),
                mask=tuple((transcript.sources == Source.POLICY).astype(int).tolist()),
                reward=reward,
                terminated=bool(stop and stop.terminated),
                truncated=bool(stop and not stop.terminated),
                stop_reason=stop.value if stop else "",
            )

        return asyncio.run(run())

    conforms("tinker", play)


def test_areal_contract():
    """AReaL's engine as its documentation declares it: agenerate(request) -> response."""
    needed("torch")
    namespace = run_block("areal")

    def play(case: Case) -> Outcome:
        segments = iter(case.ids())

        class Engine:
            async def agenerate(self, request):
                ids = next(segments)
                return SimpleNamespace(
                    output_tokens=ids,
                    output_logprobs=[-0.5] * len(ids),
                    output_versions=[0] * len(ids),
                )

        pool = EnvironmentPool(case.env_id, case.arguments)
        workflow = namespace["SearchWorkflow"](pool, request=lambda ids: ids)
        row = asyncio.run(workflow.arun_episode(Engine(), task_of(case)["extra_info"]))
        right = reference(case)
        logs = [-0.5 if own else 0.0 for own in row["loss_mask"][0].tolist()]
        assert row["logprobs"][0].tolist() == logs
        return Outcome(
            tokens=tuple(row["input_ids"][0].tolist()),
            mask=tuple(row["loss_mask"][0].tolist()),
            reward=float(row["rewards"][0]),
            terminated=right.terminated,  # AReaL has neither
            truncated=right.truncated,
            stop_reason=right.stop_reason,
        )

    check("AReaL", play, ENDING)


def test_verifiers_page(monkeypatch):
    needed("verifiers.v1")
    monkeypatch.syspath_prepend(str(ROOT / "registries" / "environments_hub" / "search_qa"))
    run_block("verifiers")


def test_verifiers_plays_an_episode(monkeypatch):
    """The taskset's environment with an agent that writes two turns."""
    needed("verifiers.v1")
    monkeypatch.syspath_prepend(str(ROOT / "registries" / "environments_hub" / "search_qa"))
    from search_qa.taskset import SearchQAConfig, SearchQAEnv, SearchQATaskset

    replies = iter(["<q>key1 key1 </q>", "<a>value0 </a>"])
    recorded, turns = {}, []

    class Interaction:
        trace = SimpleNamespace(
            info={},
            record_reward=lambda name, value, weight=1.0: recorded.update({name: value}),
            record_metric=lambda name, value: recorded.update({name: value}),
        )

        async def __aenter__(self):
            return self

        async def __aexit__(self, *exc):
            return False

        async def turn(self, text=None):
            turns.append(text)
            return SimpleNamespace(terminated=False, last_reply=next(replies))

    taskset = SearchQATaskset(SearchQAConfig(env_id=TOY, split="train"))
    tasks = list(taskset.take(10))
    assert len(tasks) == 10
    agents = SimpleNamespace(player=SimpleNamespace(interaction=lambda task: Interaction()))
    env = SearchQAEnv.__new__(SearchQAEnv)  # its constructor loads a taskset by its installed name
    asyncio.run(env.run(tasks[9], agents))
    assert turns == [None, "<d>value0 </d>"]
    assert recorded["search_qa_reward"] == 1.0
    assert Interaction.trace.info["stop_reason"] == "answered"


def test_skyrl_gym_page():
    needed("skyrl_gym")
    run_block("skyrl-gym")
    import skyrl_gym

    env = skyrl_gym.make("search-qa", extras={"task": {"split": "train", "index": 9}})
    messages, _ = env.init([])
    assert messages[0]["content"] == "find key1 key1 "
    output = env.step("<q>key1 key1 </q>")
    assert output["observations"][0]["content"] == "<d>value0 </d>"
    output = env.step("<a>value0 </a>")
    assert output["done"]
    assert output["reward"] == 1.0
    assert output["metadata"]["truncated"] is False


def test_gem_page():
    needed("gem")
    env = run_block("gem")["env"]
    env.reset(seed=7)
    text, _reward, terminated, truncated, _info = env.step("<q>key1 key2 </q>")
    assert "<d>" in text
    assert not terminated
    assert not truncated


def test_minari_page(tmp_path, monkeypatch):
    needed("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    run_block("minari")


def test_datasets_page(tmp_path):
    needed("datasets")
    run_block("datasets", folder=str(tmp_path))


def test_wandb_page(tmp_path, monkeypatch):
    needed("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_block("wandb", folder=str(tmp_path))


def test_mlflow_page(tmp_path):
    needed("mlflow")
    run_block("mlflow", folder=str(tmp_path))
