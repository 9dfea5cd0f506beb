"""What a run is said to take, against what it takes."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

MEASURED = """
import json, sys, threading, time, torch, transformers
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.cost import cost
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.cloned import letter_tokenizer
from llm_bridge.models.load import CausalLM

layers, V, rows, prompt, T, checkpointing = json.loads(sys.argv[1])
torch.set_num_threads(1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def watch():
    while not done:
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)

config = transformers.LlamaConfig(
    vocab_size=V, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
    num_attention_heads=9, num_key_value_heads=3, bos_token_id=None, eos_token_id=None,
    tie_word_embeddings=True,
)
model = transformers.LlamaForCausalLM(config).eval()
lm = CausalLM(model, letter_tokenizer(4, 0), "m")
lm.reader
before = resident() - sum(p.numel() * 4 for p in model.parameters())
config = PPOConfig(
    max_tokens=T, prompts_per_step=rows // 2, samples=2, minibatch=rows, end_tokens=(), steps=2,
    epochs=1, gradient_checkpointing=checkpointing, lr=1e-6, beta=0.1,
)
estimated = sum(cost(lm, config, prompt).memory.values())
peak, done = [0], False
watcher = threading.Thread(target=watch)
watcher.start()
trainer = Trainer(lm, [[i % V for i in range(j, prompt + j)] for j in range(rows // 2)], config)
trainer.step(), trainer.step()
done = True
watcher.join()
print(estimated / (peak[0] - before))
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
@pytest.mark.parametrize(
    "shape",
    [
        (4, 4096, 16, 240, 16, False),  # most of it activations
        (2, 49152, 64, 8, 16, False),  # weights and logits
        (6, 8192, 16, 48, 16, True),
        (30, 49152, 8, 24, 8, False),  # SmolLM2-135M
    ],
)
def test_memory_is_estimated_within_a_tenth(shape):
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, json.dumps(shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.1
