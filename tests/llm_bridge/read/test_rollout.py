"""Responses that are over leave the batch, and the others go on as if they were alone."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from letters import PROMPTS, model
from tiny import tiny

from llm_bridge.read.rollout import Actor, generate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "tiny"])
def test_each_response_is_that_of_its_prompt_alone(kind):
    lm = tiny() if kind == "tiny" else model(kind)
    ends = [1, 3] if kind != "tiny" else list(range(0, 264, 2))
    T = 3 if kind == "gpt2" else 5
    prompts = [lm.tokenizer(text)["input_ids"] for text in PROMPTS[: 2 if kind == "gpt2" else 4]]
    uniforms = torch.rand(16 * len(prompts), T, dtype=torch.double)
    actor = Actor(lm)
    rollout = generate(actor, prompts, T, ends, uniforms=uniforms, samples=16)
    responses = rollout.texts()[1]
    lengths = {len(response) for response in responses}
    assert len(lengths) > 2  # some are over early, some late
    for i, response in enumerate(responses):
        alone = generate(actor, [prompts[i // 16]], T, ends, uniforms=uniforms[i : i + 1])
        assert alone.texts()[1][0].tolist() == response.tolist()
        n = len(response)
        torch.testing.assert_close(
            alone.log_probs[0, :n], rollout.log_probs[i, :n], atol=2e-5, rtol=0
        )
        assert bool(rollout.ended[i]) == bool(alone.ended[0]) == (response[-1] in ends)
        assert not rollout.log_probs[i, n:].any()


def test_rows_that_are_over_are_read_no_more():
    lm = tiny()
    actor = Actor(lm)
    read = []
    forward = actor.forward
    actor.forward = lambda ids, *args, **options: (
        read.append(len(ids)) or forward(ids, *args, **options)
    )
    uniforms = torch.rand(64, 8, dtype=torch.double)
    rollout = generate(actor, [[1, 2]], 8, list(range(0, 264, 2)), uniforms=uniforms, samples=64)
    alive = rollout.response_mask.sum(dim=0).tolist()
    assert read[0] == 1  # the prompt, once for all samples
    for rows, going in zip(read[1:], alive[1:], strict=False):
        assert going <= rows <= going / 0.75 + 1
