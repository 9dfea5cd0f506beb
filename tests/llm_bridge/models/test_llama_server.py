"""llama.cpp's server, where it is installed, says what the same GGUF file says here."""

import shutil
import socket
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

import gguf_files

from llm_bridge.models.load import load_tokenizer
from llm_bridge.models.served import connect
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reading import RewardReading
from llm_bridge.read.reward import EndogenousReward

LOGPROB = RewardReading(gauge="logprob")
FLAGS = "--host 127.0.0.1 -c 512 -t 1 -np 1 -ctk f32 -ctv f32 -fa off --no-warmup"

XLLAMACPP = """
import sys, time, xllamacpp as x
p = x.CommonParams()
p.model.path, p.port = sys.argv[1], int(sys.argv[2])
p.n_ctx, p.n_parallel, p.cpuparams.n_threads, p.warmup = 512, 1, 1, False
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = x.Server(p)
while True:
    time.sleep(1)
"""
"""The same server in the package xllamacpp, with the same flags."""


@contextmanager
def serving(file):
    """Serve a GGUF file while the block is entered; gives the URL of the API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if binary := shutil.which("llama-server"):
        command = [binary, "-m", str(file), "--port", port, *FLAGS.split()]
    elif find_spec("xllamacpp"):
        command = [sys.executable, "-c", XLLAMACPP, str(file), port]
    else:
        pytest.skip("neither llama-server nor the package xllamacpp is installed")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            for _ in range(600):
                with socket.socket() as tried:
                    if tried.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
            time.sleep(1)  # it listens before it has the model
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def differences(file, prompts, responses):
    """Of each token's log-probability, there and here; the last token ends the response."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where the conversion is kept
        own = EndogenousReward(ModelSpec(file).load(), reading=LOGPROB)
    ids = [own.encode(*pair, eos=True) for pair in zip(prompts, responses, strict=True)]
    pairs = [before for before, _ in ids], [after for _, after in ids]
    expected = own.score_ids(*pairs, progress=False)
    with serving(file) as url:
        there = connect(url, *load_tokenizer(str(file)))
        assert there.context == min(512, own.lm.context) - 2
        found = EndogenousReward(there, reading=LOGPROB).score_ids(*pairs)
    assert all(int(score.ids[-1]) in own._ends for score in found)
    assert [f.ids.tolist() for f in found] == [e.ids.tolist() for e in expected]
    logs = [np.concatenate([score.log_probs for score in scores]) for scores in (found, expected)]
    return np.abs(logs[0] - logs[1])


def test_float_weights_have_the_same_log_probabilities(tmp_path, monkeypatch):
    monkeypatch.setenv("ENDORM_CACHE", str(tmp_path))
    file = gguf_files.write(tmp_path / "tiny.gguf")
    found = differences(file, ["the 12", "in the"], [" then", " 12 in"])
    assert len(found) > 5
    assert found.max() < 1e-4


@pytest.mark.slow
def test_quantised_weights_are_rounded_by_the_kernels_of_the_server(shared_models):
    (file,) = (shared_models / "smollm2-135m-instruct").glob("*.gguf")
    prompts = [[{"role": "user", "content": "What is the capital of France?"}]]
    found = differences(file, prompts, ["The capital of France is Paris."])
    assert found.mean() < 0.2
