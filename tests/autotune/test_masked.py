"""With masks and dropout torch's own attention runs, under the same limits on memory that `explain` tells of."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune.decision import NothingFitsError

from .ladder import tensors
from .records import MIB

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
MASK = torch.ones(64, 64, dtype=torch.bool)
CALLS = pytest.mark.parametrize("call", [autotune.attention, autotune.explain], ids=["attention", "explain"])


@pytest.mark.parametrize("options", [{"attn_mask": MASK}, {"dropout_p": 0.5}], ids=["mask", "dropout"])
@CALLS
def test_a_memory_limit_holds_with_masks_and_dropout(options, call):
    call(*tensors(), **options, memory_limit=MIB)
    with pytest.raises(NothingFitsError, match=r"memory limit is 100 B, but torch's own attention needs .*estimated"):
        call(*tensors(), **options, memory_limit=100)


@CALLS
def test_under_autocast_the_limit_is_held_against_what_is_cast(call):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decision = autotune.explain(*tensors(), MASK)
        need = decision.predicted_memory_bytes
        call(*tensors(), MASK, memory_limit=need)
        with pytest.raises(NothingFitsError, match="memory limit is"):
            call(*tensors(), MASK, memory_limit=need - 1)
    assert decision.problem.torch_dtype == torch.bfloat16
    assert need != autotune.explain(*tensors(), MASK).predicted_memory_bytes


def test_under_autocast_dtypes_may_differ():
    query, key, value = tensors()
    key, value = key.bfloat16(), value.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = autotune.attention(query, key, value, MASK, memory_limit=MIB)
        assert torch.equal(out, scaled_dot_product_attention(query, key, value, MASK))
        assert autotune.explain(query, key, value, MASK).problem.torch_dtype == torch.bfloat16


def test_a_compiled_model_keeps_to_no_limit_with_a_mask():
    def model(query, key, value):
        return autotune.attention(query, key, value, MASK, memory_limit=100)

    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*tensors()), scaled_dot_product_attention(*tensors(), MASK))


def test_explain_tells_what_a_mask_or_dropout_needs():
    masked = autotune.explain(*tensors(), attn_mask=MASK)
    dropped = autotune.explain(*tensors(), dropout_p=0.5)
    output, scores = 2 * 64 * 8 * 4, 2 * 64 * 64 * 4
    assert output < masked.predicted_memory_bytes
    assert output + scores < dropped.predicted_memory_bytes
    assert "(estimated)" in masked.text
