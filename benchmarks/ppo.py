"""PPO: tokens generated, scored and learned from in a second, against TRL's `PPOTrainer`; and where
our time goes.

    python benchmarks/ppo.py [--sizes addition llama] [--turns 3] [--steps 2] [--threads 1]
    python benchmarks/ppo.py --device cuda --model-size 7b [--lora 16] [--peak 989]
    python benchmarks/ppo.py --decoding smollm2 [--turns 3] [--threads 1]

The first compares, on a CPU, in float32: ``add-fair`` from the folder models/ in ENDORM_SHARED (or
../shared), and a randomly initialised Llama. Both sides have the same prompts, number of responses
and of their tokens, epochs, minibatches and threads. Each contender runs in a process of its own,
`--turns` times in turn with the others; its first step is not counted. TRL's last release with this
trainer is 1.12.0; without it, we are timed alone.

TRL has two networks that ours does not need, for the reward and the value. A contender of its own
is TRL with both replaced by one multiplication: what is left of the lead is not theirs. Ours comes
twice: as it is by default, with the expected reward of a state, over the whole vocabulary, and with
the reward of the token drawn, which is what TRL has.

The second runs our trainer alone, in bfloat16, on a randomly initialised Qwen2 and says how much of
the peak it uses.

The third samples as many tokens of a chat model with our `generate` and with that of
``transformers``, in turn, in one process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

MODELS = (
    Path(os.environ.get("ENDORM_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
    / "models"
)
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
}
LLAMA |= {"num_attention_heads": 12, "num_key_value_heads": 12, "tie_word_embeddings": True}
QWEN = {
    "1.5b": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
    },
    "7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
    },
    "tiny": {
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
    },
}
QWEN["1.5b"] |= {"num_hidden_layers": 28, "num_key_value_heads": 2, "tie_word_embeddings": True}
QWEN["7b"] |= {"num_hidden_layers": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}
QWEN["tiny"] |= {"num_hidden_layers": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}

SETTINGS = {  # responses, tokens of a prompt and of a response, responses in a minibatch, epochs
    "addition": {"batch": 1024, "prompt": 6, "response": 4, "minibatch": 256, "epochs": 2},
    "llama": {"batch": 16, "prompt": 24, "response": 32, "minibatch": 8, "epochs": 2},
    "1.5b": {"batch": 128, "prompt": 256, "response": 256, "minibatch": 32, "epochs": 1},
    "7b": {"batch": 128, "prompt": 256, "response": 256, "minibatch": 32, "epochs": 1},
    "tiny": {"batch": 8, "prompt": 12, "response": 8, "minibatch": 4, "epochs": 1},
}
PEAK = {
    "H100": 989,
    "H200": 989,
    "A100": 312,
}  # TFLOP/s of dense bfloat16 products, as the maker states them
TARGET = 1.5
PARTS = ("generation", "reward", "reading", "forward", "backward", "clipping", "optimiser", "rest")
OURS, DENSE, TRL, FREE = "ours", 'ours, `reward="dense"`', "TRL", "TRL, reward and value free"


# --- What is run ----------------------------------------------------------------------------------


def model_and_prompts(size, device="cpu"):
    """The model to train, and token ids of prompts ``(n, P)``, all of one length."""
    import torch
    import transformers

    torch.manual_seed(0)
    setting = SETTINGS[size]
    if size == "addition":
        model = transformers.AutoModelForCausalLM.from_pretrained(
            MODELS / "add-fair", dtype=torch.float32
        )
    elif size == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    else:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**QWEN[size]))
        torch.set_default_dtype(torch.float32)
    prompts = np.random.default_rng(0).integers(
        model.config.vocab_size, size=(2 * setting["batch"], setting["prompt"])
    )
    return model.eval(), prompts


def our_trainer(size, device="cpu", **options):
    """Our trainer; one response to each prompt, as TRL has it."""
    from llm_bridge.improve.config import PPOConfig
    from llm_bridge.improve.trainer import Trainer
    from llm_bridge.models.load import CausalLM

    model, prompts = model_and_prompts(size, device)
    setting = SETTINGS[size]
    options = {"samples": 1, "lr": 1e-6, "anneal": False, "stop_kl": None} | options
    options["prompts_per_step"] = setting["batch"] // options["samples"]
    options |= {
        "max_tokens": setting["response"],
        "minibatch": setting["minibatch"],
        "epochs": setting["epochs"],
    }
    return Trainer(
        CausalLM(model, None, size), prompts.tolist(), PPOConfig(end_tokens=(), **options)
    )


class Clock:
    """Seconds spent in parts of a step, each without the parts inside it."""

    def __init__(self, synchronise):
        self.seconds, self.stack, self.synchronise, self.last = (
            defaultdict(float),
            ["rest"],
            synchronise,
            0.0,
        )

    def turn(self):
        """Charge what has passed to the part that runs."""
        self.synchronise()
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def wrap(self, place, name, part, inside=None):
        """Charge ``place.name`` to `part`, or only where `inside` is what runs; elsewhere it is
        part of that.
        """
        function = getattr(place, name)

        def timed(*args, **kwargs):
            if inside is not None and self.stack[-1] not in inside:
                return function(*args, **kwargs)
            self.turn()
            self.stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.stack.pop()

        setattr(place, name, timed)


def clocked(trainer, synchronise=lambda: None):
    """A clock in the parts of our trainer, which has none itself."""
    import torch

    from llm_bridge.improve import trainer as module

    clock = Clock(synchronise)
    clock.wrap(module, "generate", "generation")
    clock.wrap(trainer.frozen, "score", "reward")
    clock.wrap(
        trainer, "_update", "forward"
    )  # what is in it and not in the parts below: reading, and the losses
    clock.wrap(module.Rollout, "read", "reading", inside=["rest"])
    clock.wrap(torch.Tensor, "backward", "backward")
    clock.wrap(torch.nn.utils, "clip_grad_norm_", "clipping")
    clock.wrap(trainer.optimizer, "step", "optimiser")
    return clock


def run_ours(size, steps, reward):
    """Wall and processor seconds of each step after the first, and shares of the parts."""
    trainer = our_trainer(size, reward=reward)
    trainer.step()
    clock, stamps = clocked(trainer), [(time.perf_counter(), time.process_time())]
    for _ in range(steps):
        clock.last = time.perf_counter()
        trainer.step()
        clock.turn()
        stamps.append((time.perf_counter(), time.process_time()))
    tokens = SETTINGS[size]["batch"] * SETTINGS[size]["response"]
    assert trainer.rollout.response_mask.sum() == tokens
    return {"stamps": stamps, "parts": clock.seconds}


def run_trl(size, steps, free):
    """The same of TRL; with `free`, neither reward nor value network."""
    import torch
    import transformers
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    model, prompts = model_and_prompts(size)
    setting, config = SETTINGS[size], model.config
    if size == "addition":  # it feeds the last token too, for which the model has no position
        old = model.transformer.wpe.weight.data
        model.transformer.wpe = torch.nn.Embedding.from_pretrained(
            torch.cat([old, old[-1:]]), freeze=False
        )
        config.n_positions += 1
    kwargs = {"num_labels": 1, "pad_token_id": None}
    classifier = type(config).from_dict(config.to_dict() | kwargs)
    auto = transformers.AutoModelForSequenceClassification
    reward, value = (free_network() if free else auto.from_config(classifier) for _ in range(2))
    stamps, written = [], []

    class Stamp(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            stamps.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            num_sample_generations=0,
            learning_rate=1e-6,
            response_length=setting["response"],
            temperature=1.0,
            total_episodes=setting["batch"] * (steps + 1),
            num_ppo_epochs=setting["epochs"],
            # the batch in one, so that every minibatch is an optimiser step
            per_device_train_batch_size=setting["batch"],
            gradient_accumulation_steps=1,
            num_mini_batches=setting["batch"] // setting["minibatch"],
            local_rollout_forward_batch_size=setting["batch"],
        )
        trainer = PPOTrainer(
            args=arguments,
            processing_class=SimpleNamespace(
                pad_token_id=config.vocab_size, eos_token_id=config.vocab_size + 1
            ),
            model=model,
            ref_model=None,  # it makes a copy
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": prompts.tolist()}),
            data_collator=lambda rows: {
                "input_ids": torch.tensor([row["input_ids"] for row in rows])
            },
            callbacks=[Stamp()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        generate = model.generate
        model.generate = lambda *args, **kwargs: (
            written.append(generate(*args, **kwargs)) or written[-1]
        )
        trainer.train()
    shape = setting["batch"], setting["prompt"] + setting["response"]
    assert all(output.sequences.shape == shape for output in written)
    assert len(written) == steps + 1
    return {"stamps": stamps}


def free_network():
    """A network in the place of TRL's reward or value network that costs nothing."""
    import torch

    class Nothing(torch.nn.Module):
        def forward(self, input_ids, **others):
            return SimpleNamespace(hidden_states=[input_ids[..., None] / 1e6])

    network = torch.nn.Module()
    network.base_model_prefix, network.backbone, network.score = (
        "backbone",
        Nothing(),
        torch.nn.Linear(1, 1),
    )
    return network


# --- The comparison -------------------------------------------------------------------------------


def trl_missing():
    """Why TRL cannot take part; empty where it can."""
    if importlib.util.find_spec("trl") is None:
        return "not installed: pip install trl==1.12.0"
    if (
        importlib.util.find_spec("trl.experimental") is None
        or importlib.util.find_spec("trl.experimental.ppo") is None
    ):
        version = importlib.metadata.version("trl")
        return f"version {version} has no trl.experimental.ppo: pip install trl==1.12.0"
    return ""


def compare(size, names, arguments):
    """All contenders in turn, each in a process of its own, and a table of them."""
    setting, runs = SETTINGS[size], {name: [] for name in names}
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = (
        os.environ | dict.fromkeys(pools, str(arguments.threads)) | {"HF_HUB_OFFLINE": "1"}
    )
    for _ in range(arguments.turns):
        for name in names:
            command = [
                sys.executable,
                __file__,
                "--contender",
                name,
                "--sizes",
                size,
                "--steps",
                str(arguments.steps),
            ]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr.strip()}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            wall, processor = np.median(np.diff(runs[name][-1]["stamps"], axis=0), axis=0)
            print(
                f"{size}, {name}: {wall:.2f} s a step, {processor:.2f} s of processor time",
                file=sys.stderr,
            )
    tokens = setting["batch"] * setting["response"]
    print(f"\n## {size}: {describe(setting)}\n")
    print(
        "| | tokens/s, median | tokens/s, best | tokens/s of processor time, median "
        "|\n|---|---:|---:|---:|"
    )
    seconds = {
        name: [np.diff(run["stamps"], axis=0) for run in found] for name, found in runs.items()
    }
    for name, found in seconds.items():
        wall, processor = tokens / np.concatenate(found).T
        print(
            f"| {name} | {np.median(wall):,.1f} | {wall.max():,.1f} | {np.median(processor):,.1f} |"
        )
    print()
    medians = {
        name: np.array([np.median(turn, axis=0) for turn in found])
        for name, found in seconds.items()
    }
    for own, other in itertools.product((OURS, DENSE), names[2:]):
        wall, processor = (medians[other] / medians[own]).T
        ratio, spread = np.median(wall), ", ".join(f"{one:.2f}" for one in wall)
        print(
            f"- {own} over {other}: {ratio:.2f} (turns {spread}), of processor time "
            f"{np.median(processor):.2f}",
            end="",
        )
        judged = own == OURS and other == TRL
        print(f"; at least {TARGET}: {'met' if ratio >= TARGET else 'MISSED'}" if judged else "")
    if FREE in names:
        share = 1 - np.median(medians[FREE][:, 0] / medians[TRL][:, 0])
        print(f"- reward and value network: {share:.0%} of TRL's time")
    for own in (OURS, DENSE):
        print_shares(own, [run["parts"] for run in runs[own]])


def print_shares(name, runs):
    """Where our time goes."""
    total = {part: sum(run.get(part, 0.0) for run in runs) for part in PARTS}
    whole = sum(total.values())
    print(
        f"- time of {name}: "
        + ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in total.items())
    )


def describe(setting):
    """The setting in words."""
    return (
        f"{setting['batch']} responses of {setting['response']} tokens to prompts of "
        f"{setting['prompt']}, "
        f"{setting['epochs']} epochs of minibatches of {setting['minibatch']}"
    )


SIDES = f"""
Both: float32, one response a prompt, no end tokens, temperature 1, Adam without weight decay, one
pass a minibatch, no dropout, no gradient checkpointing, nothing saved, reported or evaluated.
{OURS}: frozen model read once, for reward and KL; policy read once more after generation; value
head on the policy's last hidden state, without gradient to it; gradient clipped; output head
applied to the tokens of responses only, and the frozen one's with it, again in every epoch, for
the expected reward.
{DENSE}: the same with the reward of the token drawn; the frozen head is applied once.
{TRL}: frozen model read once, for the KL; a reward network and a value network of the policy's
architecture and size, the latter trained with the policy; log-probabilities taken from generation;
logits of all columns; nothing clipped.
{FREE}: the same without these two networks; it reads the policy one time fewer than we do."""


# --- Ours alone, on a GPU -------------------------------------------------------------------------


def alone(size, device, lora, steps, peak):
    """Tokens in a second and share of peak of our trainer, in bfloat16."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    setting = SETTINGS[size]
    print(
        f"# PPO alone, Qwen2 {size}, {f'LoRA of rank {lora}' if lora else 'all weights'}, "
        f"bfloat16, on {device}"
    )
    print(f"\n{describe(setting)}\n")
    if device != "cpu" and not torch.cuda.is_available():
        print("- not measured: torch finds no GPU here")
        return
    synchronise = torch.cuda.synchronize if device != "cpu" else lambda: None
    trainer = our_trainer(
        size,
        device,
        dtype="bfloat16",
        lora=lora,
        samples=8,
        microbatch=8,
        gradient_checkpointing=device != "cpu",
    )
    with FlopCounterMode(display=False) as counter:
        trainer.step()
    flops = counter.get_total_flops()
    trainer.step()
    clock, seconds = clocked(trainer, synchronise), []
    for _ in range(steps):
        synchronise()
        clock.last = start = time.perf_counter()
        trainer.step()
        clock.turn()
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    print(
        f"- {setting['batch'] * setting['response'] / median:,.0f} tokens/s, {median:.2f} s a step"
    )
    rate = flops / median / 1e12
    print(
        f"- {flops / 1e12:.3g} TFLOP a step, counted, what is computed twice included: {rate:.3g} "
        "TFLOP/s"
    )
    name = torch.cuda.get_device_name() if device != "cpu" else ""
    peak = peak or next((value for key, value in PEAK.items() if key in name), None)
    share = f"{rate / peak:.1%} of {peak} TFLOP/s" if peak else "not measured (give --peak)"
    print(f"- share of peak: {share}")
    memory = (
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        if device != "cpu"
        else "not measured"
    )
    print(f"- memory: {memory}")
    print_shares(OURS, [clock.seconds])


# --- Decoding alone -------------------------------------------------------------------------------


def decoding(name, turns, threads, tokens=16):
    """Tokens in a second of our `generate`, and of that of ``transformers``, least time of each."""
    import torch

    from llm_bridge.models.prompts import encode_prompt
    from llm_bridge.models.spec import ModelSpec
    from llm_bridge.read.rollout import Actor, generate
    from llm_bridge.tasks.generated import sums

    torch.set_num_threads(threads)
    lm = ModelSpec(name).load()
    actor, pad = Actor(lm), 0
    asked = sums(8).prompts
    short = [(*prompt[-1:],) for prompt in asked]
    print(f"# Decoding {tokens} tokens of {lm.name}, float32, {threads} thread(s)\n")
    print("| prompts × samples | lengths | ours | transformers | ours over theirs |")
    print("|---|---|---:|---:|---:|")
    for prompts, samples in ((asked, 1), (asked[:4], 4), ([*asked[:4], *short[4:]], 1)):
        ids = [encode_prompt(lm, list(prompt), tokens) for prompt in prompts]
        rows, longest = len(ids) * samples, max(map(len, ids))
        uniforms = torch.rand(rows, tokens, dtype=torch.double)
        padded = torch.tensor([[pad] * (longest - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])

        def ours(ids=ids, uniforms=uniforms, samples=samples):
            return generate(actor, ids, tokens, (), uniforms=uniforms, samples=samples).ids

        @torch.no_grad()
        def theirs(padded=padded, mask=mask, samples=samples):
            return lm.model.generate(
                padded,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                num_return_sequences=samples,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=pad,
            )

        seconds = {ours: [], theirs: []}
        for _ in range(turns + 1):  # the first is not counted
            for contender, found in seconds.items():
                start = time.perf_counter()
                assert contender().shape == (rows, longest + tokens)
                found.append(time.perf_counter() - start)
        rates = [rows * tokens / min(found[1:]) for found in seconds.values()]
        cells = [f"{len(ids)} × {samples}", f"{min(map(len, ids))} to {longest}"]
        cells += [*(f"{rate:.1f}" for rate in rates), f"{rates[0] / rates[1]:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def main():
    """Run the comparison, or our trainer alone, or decoding alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["addition", "llama"], choices=["addition", "llama"]
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model-size", choices=list(QWEN))
    parser.add_argument("--lora", type=int)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device")
    parser.add_argument("--decoding", metavar="MODEL")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        size, steps, name = arguments.sizes[0], arguments.steps, arguments.contender
        ours = {OURS: "expected", DENSE: "dense"}
        found = (
            run_ours(size, steps, ours[name])
            if name in ours
            else run_trl(size, steps, name == FREE)
        )
        print(json.dumps(found))
        return
    if arguments.decoding:
        decoding(arguments.decoding, arguments.turns, arguments.threads)
        return
    if arguments.model_size:
        alone(
            arguments.model_size, arguments.device, arguments.lora, arguments.steps, arguments.peak
        )
        return
    sys.path.insert(0, str(Path(__file__).parent))
    from solver import cpu_model

    missing = trl_missing()
    packages = ["torch", "transformers", *([] if missing else ["trl"])]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"# PPO on {arguments.threads} thread(s) of {cpu_model()}: {versions}")
    print(f"\nTRL skipped: {missing}" if missing else SIDES)
    for size in arguments.sizes:
        if size == "addition" and not (MODELS / "add-fair").is_dir():
            print(
                f"\n## {size}\n\n- not measured: no add-fair; set ENDORM_SHARED to the folder that "
                "holds models/"
            )
            continue
        compare(size, [OURS, DENSE] if missing else [OURS, DENSE, TRL, FREE], arguments)


if __name__ == "__main__":
    main()
