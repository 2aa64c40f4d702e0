"""A small Llama with our attention: the same logits, tokens and gradients as with torch's."""

import pytest
import torch

import autotune
from autotune import Config, Dense, Problem, current, hugging_face
from autotune.hugging_face import IMPLEMENTATIONS, model_attention
from autotune.strategies.errors import AutotuneError, PatternError, UnsupportedError

from .records import fill, ok

transformers = pytest.importorskip("transformers")
RING = Config.of("ring", chunk_size=5, compile="off", query_block=0)


@pytest.fixture(autouse=True, scope="module")
def database(tmp_path_factory):
    """Ring attention is the fastest."""
    path = tmp_path_factory.mktemp("hugging_face") / "t.db"
    problems = [Problem.self_attention(24, causal=True, direction=way) for way in ("forward", "training")]
    fill(path, [(problem, Dense(), RING, ok(1.0)) for problem in problems])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AUTOTUNE_DB", str(path))
        current.reload()
        autotune.register_transformers()
        yield
    current.reload()


def llama(implementation):
    """The same random weights each time; grouped heads."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


@pytest.fixture(scope="module")
def models(database):
    return llama("autotune"), llama("sdpa")


@pytest.fixture
def tokens():
    return torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_logits(models, tokens, padded):
    mask = torch.ones_like(tokens)
    if padded:
        mask[0, :7] = 0
    ours, torchs = (model(tokens, attention_mask=mask).logits for model in models)
    assert torch.allclose(ours, torchs, atol=1e-5)
    assert ours.std() > 0.01


def test_the_tuned_configuration_ran(models, tokens):
    models[0](tokens)
    decisions = [bound.decision for bound in current.table()._bound.values()]
    assert RING in [decision.config for decision in decisions]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("cache", [None, "static"], ids=["dynamic", "static"])
def test_generation_with_a_cache(models, tokens, padded, cache):
    mask = torch.ones_like(tokens)
    if padded:
        mask[1, :5] = 0
    ours, torchs = (
        model.generate(
            tokens, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None,
            cache_implementation=cache, disable_compile=True, return_dict_in_generate=True, output_logits=True,
        )
        for model in models
    )  # fmt: skip
    assert torch.equal(ours.sequences, torchs.sequences)
    assert ours.sequences.shape == (2, 36)
    assert torch.allclose(torch.stack(ours.logits), torch.stack(torchs.logits), atol=1e-5)


def test_a_training_step(tokens):
    ours, torchs = llama("autotune").train(), llama("sdpa").train()
    for model in (ours, torchs):
        model(tokens, labels=tokens).loss.backward()
    for (name, mine), (_, wanted) in zip(ours.named_parameters(), torchs.named_parameters(), strict=True):
        assert torch.allclose(mine.grad, wanted.grad, atol=1e-6, rtol=1e-4), name


def test_a_pattern_under_its_own_name_is_another_function(tokens):
    window = llama("autotune_local_window")
    long = torch.randint(0, 97, (1, 128), generator=torch.Generator().manual_seed(2))
    assert torch.isfinite(window(long).logits).all()
    dilated = llama("autotune_dilated")(tokens[:1]).logits
    assert torch.allclose(dilated, llama("sdpa")(tokens[:1]).logits, atol=1e-5)  # one segment: dense
    with pytest.raises(PatternError, match="query_len 1"):
        window.generate(tokens, max_new_tokens=2, do_sample=False, pad_token_id=0)
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    with pytest.raises(UnsupportedError, match="attn_mask"):
        window(tokens, attention_mask=mask)


@pytest.mark.parametrize(
    ("name", "option"), [("softcap", 30.0), ("s_aux", torch.ones(2)), ("block_indices", torch.ones(2))], ids=str
)
def test_what_is_more_than_attention_is_refused(name, option):
    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(AutotuneError, match=name):
        model_attention(IMPLEMENTATIONS["autotune"], torch.nn.Module(), x, x, x, None, **{name: option})


def test_the_sinks_of_gpt_oss_are_refused(tokens):
    config = transformers.GptOssConfig(
        vocab_size=97, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="autotune")
    with pytest.raises(UnsupportedError, match="s_aux"):
        model(tokens)


def test_with_a_mask_torch_is_given_every_head(monkeypatch):
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.rand(2, 1, 5, 5) > 0.3
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    asked = []
    attend = hugging_face.attention
    monkeypatch.setattr(hugging_face, "attention", lambda *a, **k: asked.append(k["enable_gqa"]) or attend(*a, **k))
    arguments = IMPLEMENTATIONS["autotune"], torch.nn.Module(), query, key, value
    out, _ = model_attention(*arguments, mask, position_ids=torch.arange(5))
    assert torch.allclose(out.transpose(1, 2), expected, atol=1e-6)
    model_attention(*arguments, None)
    assert asked == [False, True]


@pytest.mark.parametrize("name", ["autotune_dilated", "autotune_local_window"])
def test_a_compiled_model_with_another_function(tokens, name):
    model = llama(name)
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.allclose(compiled(tokens).logits, model(tokens).logits, atol=1e-5)


def test_replacing_torchs_function_serves_a_whole_model(models, tokens):
    _, torchs = models
    expected = torchs(tokens).logits
    before = len(current.table().calls)
    with autotune.replace_sdpa():
        actual = torchs(tokens[:, :23]).logits
    assert len(current.table().calls) > before
    assert torch.allclose(actual, expected[:, :23], atol=1e-5)
