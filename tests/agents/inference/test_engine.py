"""The engine against one forward pass of the stock model over each whole sequence."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from search_env.agents.errors import (
    ContextLengthError,
    DeviceMemoryError,
    ModelMismatchError,
    NonFiniteError,
)
from search_env.agents.inference import engine as engine_module
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.paged_cache import RaggedLayer
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.errors import ConfigurationError

VOCABULARY, POSITIONS = 61, 160
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING = ["sliding_attention", "full_attention"]
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen2-sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=9, layer_types=SLIDING)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE | {"num_key_value_heads": 4})),
    "smollm": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "smollm3": lambda: SmolLM3ForCausalLM(
        SmolLM3Config(**SHAPE, no_rope_layers=[1, 0], use_sliding_window=False)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SHAPE, head_dim=8, sliding_window=9, attn_logit_softcapping=2.0, layer_types=SLIDING
        )
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=9, layer_types=SLIDING)
    ),
}


def build(name="qwen2", **options):
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():  # tiny random models are almost uniform; make choices clear
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model.eval().requires_grad_(False), options


@pytest.fixture(scope="module")
def models():
    return {name: build(name)[0] for name in MODELS}


def reference(model, tokens, sampling=None):
    """Log-probabilities of what follows each token, by one pass of stock eager attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    model.set_attn_implementation(before)
    return (sampling or Sampling()).log_probs(logits)


class Journal:
    """Drives an engine and records the tokens that each row should have."""

    def __init__(self, engine, seed=0):
        self.engine, self.random = engine, np.random.default_rng(seed)
        self.tokens, self.chosen, self.values, self.finished = {}, {}, {}, []

    def ids(self, count):
        return self.random.integers(0, VOCABULARY, count)

    def begin(self, rows, prompts):
        self.release([row for row in rows if row in self.tokens])
        self.engine.begin(rows, prompts, [int(self.random.integers(1 << 30)) for _ in rows])
        for row, prompt in zip(rows, prompts, strict=True):
            self.tokens[row], self.chosen[row] = prompt.tolist(), []

    def insert(self, rows, counts):
        tokens = [self.ids(count) for count in counts]
        self.engine.insert(rows, tokens)
        for row, ids in zip(rows, tokens, strict=True):
            self.tokens[row] += ids.tolist()

    def decode(self, rows):
        decoded = self.engine.decode(rows)
        for k, row in enumerate(rows):
            value = None if decoded.values is None else decoded.values[k]
            self.chosen[row].append((len(self.tokens[row]), decoded.log_probs[k], value))
            self.tokens[row].append(int(decoded.ids[k]))

    def release(self, rows):
        self.engine.release(rows)
        self.finished += [(self.tokens.pop(row), self.chosen.pop(row)) for row in rows]

    def check(self, model, sampling=None, head=None, atol=1e-4):
        """Compare every decoded token with the stock model; return their number."""
        lengths = [len(self.tokens.get(row, ())) for row in range(self.engine.rows)]
        assert self.engine.lengths.tolist() == lengths
        self.release(list(self.tokens))
        checked = 0
        for tokens, chosen in self.finished:
            expected = reference(model, tokens, sampling)
            for position, log_prob, _ in chosen:
                true = expected[position - 1, tokens[position]].item()
                assert log_prob == pytest.approx(true, abs=atol)
                checked += 1
            if head is not None:
                states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
                values = head(states[0])[:, 0]
                for position, _, value in chosen:
                    assert value == pytest.approx(values[position - 1].item(), abs=atol)
        return checked


ROWS = 5
actions = st.lists(
    st.tuples(
        st.sampled_from(["decode", "decode", "insert", "begin", "release"]),
        st.sets(st.integers(0, ROWS - 1), min_size=1),
        st.integers(1, 40),
    ),
    min_size=4,
    max_size=10,
)


def play(journal, schedule):
    """Run a schedule, skipping what does not fit into the rows."""
    room = journal.engine.max_tokens
    journal.begin([0, 2], [journal.ids(11)] * 2)
    for kind, rows, count in schedule:
        if kind == "begin":  # pairs of rows share a prompt
            prompts = [journal.ids(count) for _ in range(ROWS)]
            journal.begin(sorted(rows), [prompts[row // 2] for row in sorted(rows)])
        begun = [row for row in rows if row in journal.tokens]
        begun = [row for row in begun if len(journal.tokens[row]) + count < room]
        if kind == "insert":
            journal.insert(begun, [count] * len(begun))
        elif kind == "release":
            journal.release(begun)
        elif kind == "decode":
            for _ in range(3):
                journal.decode([row for row in begun if len(journal.tokens[row]) < room])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedule=actions, chunk=st.sampled_from([3, 16, 2048]), static=st.booleans())
def test_any_schedule_equals_one_forward_pass(models, name, schedule, chunk, static):
    engine = Engine(
        models[name], rows=ROWS, max_tokens=120, prefill_chunk=chunk, graphs=static or None
    )
    journal = Journal(engine)
    play(journal, schedule)
    journal.check(models[name])


@pytest.mark.parametrize("static", [None, True])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_takes_the_stock_models_choice(models, name, static):
    model = models[name]
    engine = Engine(model, rows=3, max_tokens=POSITIONS, sampling=GREEDY, graphs=static)
    journal = Journal(engine)
    journal.begin([0, 1, 2], [journal.ids(count) for count in (1, 40, 70)])
    for _ in range(6):
        journal.decode([2, 0, 1])
        journal.insert([1], [7])
    for row, tokens in journal.tokens.items():
        best = reference(model, tokens).argmax(-1)
        for position, log_prob, _ in journal.chosen[row]:
            assert tokens[position] == best[position - 1]
            assert log_prob == 0.0


def test_filters_and_values_belong_to_the_state_of_the_choice(models):
    model, sampling = models["qwen3"], Sampling(temperature=0.7, top_p=0.9, top_k=20, min_p=0.01)
    torch.manual_seed(1)
    head = nn.Linear(32, 1)
    for static in (None, True):
        engine = Engine(
            model, rows=4, max_tokens=90, sampling=sampling, value_head=head, graphs=static
        )
        journal = Journal(engine)
        journal.begin([3, 1, 0], [journal.ids(9), journal.ids(30), journal.ids(9)])
        for _ in range(5):
            journal.decode([0, 3, 1])
            journal.insert([3], [4])
        assert journal.check(model, sampling, head) == 15


def test_a_row_of_one_token_and_a_full_row(models):
    journal = Journal(Engine(models["llama"], rows=2, max_tokens=40))
    journal.begin([1], [journal.ids(1)])
    for _ in range(39):
        journal.decode([1])
    with pytest.raises(ContextLengthError, match="all 40 tokens"):
        journal.engine.decode([1])
    assert journal.check(models["llama"]) == 39


def test_rows_do_not_see_what_an_earlier_sequence_left(models):
    model = models["qwen2"]
    prompt = np.arange(5, 20)
    engine = Engine(model, rows=2, max_tokens=100)
    engine.begin([0, 1], [prompt, prompt[::-1]], [7, 8])
    first = [engine.decode([0, 1]).ids[0] for _ in range(8)]
    engine.insert([0], [prompt])
    engine.decode([0])
    engine.begin([0], [prompt], [7])
    assert [engine.decode([0]).ids[0] for _ in range(8)] == first


def test_what_a_row_samples_does_not_depend_on_its_neighbours(models):
    model = models["smollm"]
    prompts = [np.arange(3 + row, 30 + 3 * row) % VOCABULARY for row in range(6)]

    def alone(row):
        engine = Engine(model, rows=1, max_tokens=120)
        engine.begin([0], [prompts[row]], [row])
        return [int(engine.decode([0]).ids[0]) for _ in range(12)]

    engine = Engine(model, rows=6, max_tokens=120)
    engine.begin(range(6), prompts, range(6))
    together = {row: [] for row in range(6)}
    random = np.random.default_rng(0)
    while min(map(len, together.values())) < 12:
        rows = random.permutation([row for row in together if len(together[row]) < 12])[:4]
        for row, token in zip(rows, engine.decode(rows).ids, strict=True):
            together[row].append(int(token))
    assert together == {row: alone(row) for row in range(6)}


def test_equal_prompts_are_forwarded_once(models):
    engine = Engine(models["qwen2"], rows=6, max_tokens=100)
    prompts = [np.arange(50)] * 4 + [np.arange(1, 31)] * 2
    engine.begin(range(6), prompts, range(6))
    assert (engine.timings.prefill_tokens, engine.timings.copied_tokens) == (49 + 29, 3 * 49 + 29)
    engine.decode(range(6))
    assert (engine.timings.prefill_tokens, engine.timings.decode_tokens) == (49 + 29, 6)
    assert engine.timings.prefill_seconds > 0
    assert engine.timings.decode_seconds > 0
    engine.timings.reset()
    assert engine.timings.prefill_tokens == engine.timings.prefill_seconds == 0


@pytest.mark.parametrize("static", [None, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_common_prefix_is_forwarded_once(models, name, static):
    model, beginning = models[name], np.arange(40)
    engine = Engine(model, rows=5, max_tokens=POSITIONS, graphs=static)
    journal = Journal(engine)
    for _ in range(2):
        engine.timings.reset()
        journal.begin([4, 1, 2], [np.append(beginning, journal.ids(n)) for n in (3, 40, 11)])
        journal.decode([1, 2])
        journal.decode([4, 2, 1])
        assert engine.timings.prefill_tokens == 32 + 10 + 47 + 18
        assert engine.timings.copied_tokens == 2 * 32
        # Later rows reuse the prefix, unless they are no longer than it.
        journal.begin([0, 1, 3], [np.append(beginning, [5]), beginning[:32], journal.ids(50)])
        journal.decode([0, 2])
        journal.insert([2, 0], [12, 30])
        for _ in range(4):
            journal.decode([3, 0, 1, 2])
        assert engine._cache.sharers.tolist() == [True, False, True, False, True, False]
        journal.release([0, 1, 2, 3, 4])
    assert journal.check(model) == 2 * (5 + 2 + 16)


def test_a_common_prefix_is_not_used_after_a_weight_changed():
    model, _ = build("qwen2")
    journal = Journal(Engine(model, rows=3, max_tokens=90))
    journal.begin([0, 1], [np.append(np.arange(32), [row]) for row in (1, 2)])
    model.model.layers[0].self_attn.q_proj.weight.mul_(1.1)
    journal.begin([1, 2], [np.append(np.arange(32), [row]) for row in (3, 4)])
    for _ in range(3):
        journal.decode([1, 2])
    journal.tokens.pop(0)
    journal.engine.release([0])
    assert journal.check(model) == 6


def test_each_token_is_forwarded_once(models):
    engine = Engine(models["qwen2"], rows=2, max_tokens=100, prefill_chunk=8)
    engine.begin([0, 1], [np.arange(30), np.arange(20)], [0, 1])
    engine.decode([0, 1])
    engine.insert([1], [np.arange(10)])
    engine.decode([0, 1])
    timings = engine.timings
    assert timings.prefill_tokens + timings.decode_tokens == 30 + 20 + 1 + 1 + 10
    assert timings.decode_tokens == 4


def test_pages_are_given_back(models):
    engine = Engine(models["qwen2"], rows=3, max_tokens=100)
    for _ in range(5):
        engine.begin([0, 1, 2], [np.arange(60)] * 3, [0, 1, 2])
        engine.decode([0, 1, 2])
        assert engine._cache.used_pages == 1 + 3
        engine.release([1, 0, 2])
        assert engine._cache.used_pages == 1  # the common prefix
    assert not any(layer.values[1:].any() for layer in engine._cache.layers)


def test_bfloat16_stays_near_float32():
    model = build("qwen3")[0].bfloat16()
    engine = Engine(model, rows=2, max_tokens=100)
    journal = Journal(engine)
    journal.begin([0, 1], [journal.ids(20), journal.ids(33)])
    for _ in range(10):
        journal.decode([0, 1])
    assert journal.check(model, atol=0.15) == 20


@pytest.mark.parametrize("name", ["qwen2-sliding", "gpt2", "gemma2"])
def test_rounded_numbers_of_tokens_change_nothing(models, monkeypatch, name):
    model, head = models[name], nn.Linear(32, 1)
    found = []
    for rounds in (False, True):
        monkeypatch.setattr(engine_module, "are_rounded", lambda *_, rounds=rounds: rounds)
        engine = Engine(model, rows=5, max_tokens=100, value_head=head, prefill_chunk=30)
        sizes = set()
        hook = model.get_output_embeddings().register_forward_hook(
            lambda _, inputs, out, sizes=sizes: sizes.add(out.shape[-2])
        )
        journal = Journal(engine)
        journal.begin([0, 1, 3], [journal.ids(20), journal.ids(33), journal.ids(7)])
        journal.decode([0, 1, 3])
        journal.insert([1, 3], [12, 1])
        journal.decode([3, 1])
        journal.begin([4], [journal.ids(3)])
        for _ in range(4):
            journal.decode([0, 1, 3, 4])
        hook.remove()
        assert (sizes <= {1, 8}) == rounds  # 1 after chunks of prefill, whose logits are not read
        assert journal.check(model, head=head) == 3 + 2 + 16
        found.append(journal.finished)
    assert [tokens for tokens, _ in found[0]] == [tokens for tokens, _ in found[1]]


def test_the_model_is_left_as_it_was():
    model = build("gpt2")[0].train().requires_grad_(True)
    model.set_attn_implementation("sdpa")
    engine = Engine(model, rows=2, max_tokens=50)
    engine.begin([0], [np.arange(10)], [0])
    first = engine.decode([0])
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    loss = model(torch.arange(10)[None], labels=torch.arange(10)[None]).loss
    loss.backward()
    assert all(not buffer.is_inference() for buffer in model.buffers())
    with torch.no_grad():  # a step of the learner in place
        for parameter in model.parameters():
            parameter.add_(parameter.grad, alpha=-1.0)
    engine.begin([0], [np.arange(10)], [0])
    second = engine.decode([0])
    expected = reference(model.eval(), list(range(10)))[-1]
    assert second.log_probs[0] == pytest.approx(expected[second.ids[0]].item(), abs=1e-4)
    assert second.log_probs[0] != first.log_probs[0]


def test_weights_that_are_not_finite_are_named_and_rows_survive():
    model, _ = build("llama")
    engine = Engine(model, rows=2, max_tokens=50)
    engine.begin([0, 1], [np.arange(5), np.arange(6)], [3, 4])
    engine.decode([0, 1])
    good = model.lm_head.weight.clone()
    model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="last good weights"):
        engine.decode([0, 1])
    model.lm_head.weight.copy_(good)
    decoded = engine.decode([0, 1])
    tokens = engine._tokens[0, : engine.lengths[0]].tolist()
    expected = reference(model, tokens)[-2, decoded.ids[0]].item()
    assert decoded.log_probs[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda e: e.begin([0], [np.arange(61)], [0]), ContextLengthError, "at most 60 tokens"),
        (lambda e: e.begin([0], [np.array([61])], [0]), ModelMismatchError, "0 to 60, got 61"),
        (lambda e: e.begin([0], [np.array([-1])], [0]), ModelMismatchError, "tokenizer"),
        (lambda e: e.begin([0], [np.array([], int)], [0]), ConfigurationError, "at least one"),
        (lambda e: e.begin([0, 0], [np.arange(3)] * 2, [0, 1]), ConfigurationError, "distinct"),
        (lambda e: e.begin([0, 2], [np.arange(3)] * 2, [0, 1]), ConfigurationError, "rows from 0"),
        (lambda e: e.begin([0, 1], [np.arange(3)], [0, 1]), ConfigurationError, "got 1"),
        (lambda e: e.begin([0], [np.arange(3)], [0, 1]), ConfigurationError, "one seed"),
        (lambda e: e.insert([1], [np.arange(50)]), ContextLengthError, "20 and 50 more"),
        (lambda e: e.insert([0], [np.arange(5)]), ConfigurationError, "Call begin"),
        (lambda e: e.decode([0]), ConfigurationError, "Call begin"),
        (lambda e: e.release([5]), ConfigurationError, "rows from 0 to 1"),
    ],
)
def test_bad_calls_are_named_and_change_nothing(models, call, error, words):
    engine = Engine(models["qwen2"], rows=2, max_tokens=60)
    engine.begin([1], [np.arange(20)], [5])
    with pytest.raises(error, match=words):
        call(engine)
    assert engine.lengths.tolist() == [0, 20]
    decoded = engine.decode([1])
    expected = reference(models["qwen2"], list(range(20)))[-1, decoded.ids[0]].item()
    assert decoded.log_probs[0] == pytest.approx(expected, abs=1e-4)


def test_nothing_to_do_is_no_error(models):
    engine = Engine(models["qwen2"], rows=2, max_tokens=60)
    engine.begin([], [], [])
    engine.insert([], [])
    engine.release([])
    decoded = engine.decode([])
    assert decoded.ids.shape == decoded.log_probs.shape == (0,)
    assert decoded.values is None


def test_settings_that_cannot_work_are_named(models):
    model = models["qwen2"]
    with pytest.raises(ContextLengthError, match=f"at most {POSITIONS}.*got 4096"):
        Engine(model, rows=1, max_tokens=4096)
    with pytest.raises(ConfigurationError, match="rows to be an integer of at least 1, got 0"):
        Engine(model, rows=0, max_tokens=10)


def test_a_cache_that_does_not_fit_says_which_setting_to_lower(models, monkeypatch):
    monkeypatch.setattr(RaggedLayer, "lazy_initialization", lambda _, k, v: k.new_zeros(1 << 50))
    with pytest.raises(DeviceMemoryError, match=r"rows=3 of .* Lower rows or"):
        Engine(models["qwen2"], rows=3, max_tokens=100)


def test_rotary_frequencies_that_change_with_the_batch_are_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    rope["original_max_position_embeddings"] = 64
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=rope))
    Engine(model, rows=1, max_tokens=64)
    with pytest.raises(ContextLengthError, match="at most 64"):
        Engine(model, rows=1, max_tokens=65)


def test_attention_that_is_not_computed_here_is_refused():
    bloom = BloomForCausalLM(BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ModelMismatchError, match="Bloom"):
        Engine(bloom, rows=1, max_tokens=20)
    sinks = GptOssForCausalLM(
        GptOssConfig(
            **SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1, layer_types=SLIDING
        )
    )
    with pytest.raises(ModelMismatchError, match="'s_aux'"):
        Engine(sinks, rows=1, max_tokens=20)
    chunked = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    chunked.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ModelMismatchError, match="chunked_attention"):
        Engine(chunked, rows=1, max_tokens=20)


# peft 0.21 asks models of transformers for what they call otherwise now.
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_peft_are_part_of_the_model():
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(build("qwen2")[0], lora).eval()
    engine = Engine(model, rows=2, max_tokens=60)
    engine.begin([1], [np.arange(20)], [0])
    decoded = engine.decode([1])
    expected = model(torch.arange(20)[None]).logits[0, -1].log_softmax(-1)
    assert decoded.log_probs[0] == pytest.approx(expected[decoded.ids[0]].item(), abs=1e-4)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_p=0.9)])
def test_forbidden_ids_are_left_out_of_the_distribution(models, static, sampling):
    model = models["qwen2"]
    prompt, banned = np.array([1, 5, 9, 4]), [np.array([], np.int64), np.arange(0, 50)]
    engine = Engine(model, rows=2, max_tokens=32, sampling=sampling, graphs=static)
    engine.begin([0, 1], [prompt, prompt], [3, 3])
    free = Engine(model, rows=1, max_tokens=32, sampling=sampling)
    free.begin([0], [prompt], [3])
    for step in range(8):
        rows = [0, 1] if step % 2 else [1, 0]
        decoded = engine.decode(rows, banned[:: 1 if step % 2 else -1])
        first, second = rows.index(0), rows.index(1)
        assert decoded.ids[first] == free.decode([0]).ids[0]  # the row without a ban is as it was
        assert decoded.ids[second] >= 50
        text = engine._tokens[1, : engine.lengths[1] - 1]
        with torch.no_grad():
            logits = model(torch.from_numpy(text)[None]).logits[0, -1]
        logits[:50] = -torch.inf
        expected = sampling.log_probs(logits)[decoded.ids[second]]
        assert decoded.log_probs[second] == pytest.approx(float(expected), abs=2e-4)
    engine.decode([0, 1])  # and on without


def test_bans_that_leave_nothing_or_do_not_match_are_refused(models):
    engine = Engine(models["qwen2"], rows=2, max_tokens=32)
    engine.begin([0, 1], [np.array([1, 2])] * 2, [0, 1])
    with pytest.raises(ConfigurationError, match="all forbidden"):
        engine.decode([0, 1], [np.array([], np.int64), np.arange(VOCABULARY)])
    with pytest.raises(ConfigurationError, match="for each of 2 rows, got 1"):
        engine.decode([0, 1], [np.array([3])])
    assert engine.lengths.tolist() == [2, 2]
    engine.decode([0, 1])
