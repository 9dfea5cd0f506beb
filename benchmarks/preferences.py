"""The paper's first two experiments on a real language model.

    python benchmarks/preferences.py q1 --model smollm2 --out out/preferences
    python benchmarks/preferences.py q2 --model smollm2 --out out/preferences

``q1``: is the reward inside a model right about preferences? RM-Bench, LLMBar and GSM8K's marked
solutions, every aggregation, three judges and a trained reward, beside the lengths alone and beside
a model that knows nothing (``--null``). ``q2``: does it follow a prompt? DSP with three sets of
domain prompts, raw and as a lift.

Each job is one ``endorm`` command with a folder of its own, which goes on where it was stopped: the
same line again finishes what is missing. ``jobs.jsonl`` has commands and seconds; ``q1.json`` and
``q2.json`` the figures, ``preferences.md`` the tables and ``domains.png`` the figure.

``--limit N`` takes the first N comparisons of each file (five for each query of DSP), ``--judged``
of those that judges read. Data are read from ``$ENDORM_SHARED/data``, by default ``../shared``.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llm_bridge.preferences import accuracy
from llm_bridge.preferences.domains import DOMAIN_PROMPTS, with_domain_prompts
from llm_bridge.preferences.intervals import mean_intervals
from llm_bridge.preferences.pairs import read_comparisons
from llm_bridge.preferences.records import columns, read_json, read_lift, read_results
from llm_bridge.read.aggregate import AggregationOptions
from theory.commands.engine import EngineOptions
from theory.reports.report import Column, Table
from theory.storage.files import write_json
from theory.storage.runs import RunFolder, read_lines
from theory.studies.engine import run_cells

DATA = {
    "chat": "rm-bench/chat_filtered.json",
    "code": "rm-bench/code_filtered.json",
    "LLMBar_Natural": "llmbar/LLMBar_Natural.json",
    "LLMBar_Adversarial_Manual": "llmbar/LLMBar_Adversarial_Manual.json",
    "LLMBar_Adversarial_Neighbor": "llmbar/LLMBar_Adversarial_Neighbor.json",
    "example_model_solutions": "gsm8k/example_model_solutions.jsonl",
}
"""Files of the first experiment, by the name that they have in a summary."""

TITLES = {
    "chat": "RM-Bench chat",
    "code": "RM-Bench code",
    "LLMBar_Natural": "LLMBar natural",
    "LLMBar_Adversarial_Manual": "LLMBar adversarial, manual",
    "LLMBar_Adversarial_Neighbor": "LLMBar adversarial, neighbor",
    "example_model_solutions": "GSM8K, marked solutions",
}

TRAINED = ("chat", "code", "example_model_solutions")
"""Data on which a reward is trained: on half of the prompts, held out on the other half."""

DSP = "dsp/domain_specific_preference.test.json"
SETS = ("plain", "short", "sharp")

SUMS = AggregationOptions(discount=(0.95,), floor=-2.0)
"""Beside the sums without parameters: about twenty tokens, without and with rare tokens cut."""

LABELS = {
    "sum": "sum (ranks as `log π`)",
    "mean": "mean per token",
    "logprob_mean": "`log π` per token",
    "discounted gamma=0.95": "discounted, γ = .95",
    "discounted_logprob gamma=0.95": "discounted `log π`, γ = .95",
    "clipped gamma=0.95 m=-2": "discounted and clipped at −2",
    "clipped_logprob gamma=0.95 m=-2": "the same of `log π`",
}
"""Aggregations in the tables; ``logprob`` is left out, which orders responses as ``sum`` does."""


@dataclass(frozen=True)
class Job:
    """One command: its experiment, the name of its folder, its words, and whether judges read."""

    part: str
    name: str
    words: tuple[str, ...]
    limit: int | None = None


def shared():
    """Folder of the data."""
    return Path(os.environ.get("ENDORM_SHARED", ROOT.parent / "shared"))


def jobs(arguments):
    """All commands, in an order in which none needs a later one; a lift needs ``none``."""
    data = shared() / "data"
    files = [str(data / name) for name in DATA.values()]
    sums = ("--discount", "0.95", "--floor", "-2", "--html", "0")
    limit = arguments.limit
    judged = arguments.judged if limit is None else min(limit, arguments.judged or limit)
    dsp = ("score", "--pairs", str(data / DSP), "--domain-prompts")
    lift = ("--lift-from", str(arguments.out / "none"))
    found = [Job("q2", "none", (*dsp, "none"), limit)]
    found += [Job("q2", name, (*dsp, name, *lift), limit) for name in arguments.sets]
    found.append(Job("q1", "endogenous", ("score", "--pairs", *files, *sums), limit))
    found += [
        Job("q1", method, ("score", "--pairs", *files, "--method", method), judged)
        for method in ("pairwise", "verifier", "pointwise")
    ]
    found += [
        Job("q1", f"trained-{name}", ("train-reward", "--pairs", str(data / DATA[name])), limit)
        for name in TRAINED
    ]
    if arguments.null:
        found.append(Job("q1", "null", ("score", "--pairs", *files, *sums, "--truncate"), limit))
    return [job for job in found if job.part in arguments.parts]


def command(job, arguments):
    """The words of a job after ``endorm``."""
    words = [*job.words, "--model", arguments.null if job.name == "null" else arguments.model]
    words += ["--out", str(arguments.out / job.name), "--batch-tokens", str(arguments.batch_tokens)]
    if arguments.device:
        words += ["--device", arguments.device]
    if job.limit is not None:
        words += ["--limit", str(job.limit)]
    return words


def start(job, words, out, deadline, threads):
    """Run a job in a process of its own; returns its row of ``jobs.jsonl``, `None` where there is
    no time left.
    """
    began = time.time()
    if began >= deadline:
        return None
    with open(out / f"{job.name}.log", "a", encoding="utf-8") as output:
        try:
            code = subprocess.run(
                [sys.executable, "-m", "llm_bridge.commands.main", *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=deadline - began,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    line = {"part": job.part, "name": job.name, "code": code, "s": time.time() - began}
    return line | {"command": shlex.join(["endorm", *words])}


def run(arguments):
    """Run all jobs that are not done; whether all are."""
    todo = jobs(arguments)
    engine = arguments.engine
    threads = max(1, (os.cpu_count() or 1) // (engine.processes or 1))
    deadline = time.time() + 60 * arguments.minutes
    codes = []
    with RunFolder(arguments.out) as folder:
        log = folder.lines("jobs.jsonl", dict)
        # what a lift is measured against comes first, alone: it also converts and caches the model
        for some in (todo[:1], todo[1:]):
            cells = {
                job.name: (job, command(job, arguments), arguments.out, deadline, threads)
                for job in some
            }
            for name, line in run_cells(start, cells, engine, what="jobs"):
                codes.append(line and line["code"])
                if line is not None:
                    log.append(line | {"jobs": engine.processes})
                    print(
                        f"{line['part']} {name}: code {line['code']}, {line['s']:.1f} s", flush=True
                    )
    return all(code in (0, 1) for code in codes)  # 1: rows that do not fit the context are listed


# --- What was found -------------------------------------------------------------------------------


def seconds(out):
    """Seconds of each job, over all times that it was started."""
    found = {}
    log = out / "jobs.jsonl"
    for row in read_lines(log, dict) if log.exists() else ():
        found[row["name"]] = found.get(row["name"], 0.0) + row["s"]
    return found


def summary_of(folder):
    """A job's ``summary.json``; `None` where it is not done."""
    path = folder / "summary.json"
    found = read_json(path) if path.exists() else {}
    return found if "scores" in found else None


def scores_of(job, subset):
    """The figures of each score on one data set, of a run with one or with several."""
    found = summary_of(job)
    if found is None:
        return {}
    return {
        name: whole["subsets"][subset]
        for name, whole in found["scores"].items()
        if subset in whole["subsets"]
    }


def row_of(data, label, found):
    """A row of the first experiment's table."""
    controlled = found["length_controlled"]["characters"]
    return {
        "data": data,
        "score": label,
        "n": found["comparisons"],
        "accuracy": found["accuracy"],
        "above_shorter": found["nulls"]["shorter (characters)"].get("accuracy_above"),
        "levels": [found[k]["value"] for k in ("hard", "normal", "easy") if k in found],
        "best_of_n": found.get("best_of_n", {}).get("value"),
        "matched": controlled["matched"],
        "logistic": controlled["logistic"],
    }


def q1(out):
    """Rows of the first experiment: for each data set its scores, judges, and what length tells."""
    rows = []
    for data in DATA:
        found = scores_of(out / "endogenous", data)
        if not found:
            continue
        rows += [row_of(data, LABELS[name], found[name]) for name in LABELS if name in found]
        for method in ("verifier", "pointwise", "pairwise"):
            judged = scores_of(out / method, data)
            if judged:
                name = "log_odds" if "log_odds" in judged else "rating"
                rows.append(row_of(data, f"{method} judge", judged[name]))
        rows += trained_rows(out, data)
        for name, null in found["sum"]["nulls"].items():
            if name in ("shorter (characters)", "random"):
                length = "the shorter response wins" if name != "random" else "a coin"
                levels = [null[k]["value"] for k in ("hard", "normal", "easy") if k in null]
                rows.append(
                    {"data": data, "score": f"*{length}*", "n": found["sum"]["comparisons"]}
                    | {"accuracy": null["accuracy"], "levels": levels}
                    | {"best_of_n": null.get("best_of_n", {}).get("value")}
                )
        nothing = scores_of(out / "null", data)
        of = summary_of(out / "null")
        for name in ("sum", "discounted gamma=0.95") if nothing else ():
            rows.append(row_of(data, f"*{of['run']['model']}, {LABELS[name]}*", nothing[name]))
    return rows


def trained_rows(out, data):
    """The trained reward on the half that it has not seen, and the sum on the same half."""
    path = out / f"trained-{data}" / "calibration.json"
    if not path.exists():
        return []
    found = read_json(path)
    judged = found["calibration"]["pairwise"]
    rows = [row_of(data, "trained reward, held-out half", judged)]
    rows[0]["log_loss"] = found["calibration"]["log_loss"]
    held = set(found["held_out"])
    folder = out / "endogenous"
    run = read_json(folder / "run.json")
    comparisons, _ = read_comparisons(shared() / "data" / DATA[data], limit=run["limit"])
    results = read_results(
        folder,
        [c for c in comparisons if c.id in held],
        columns(run, AggregationOptions()),
    )
    if results.comparisons:
        same = accuracy.summary(results.comparisons, results.scores["sum"], tokens=results.tokens)
        rows.append(row_of(data, "sum, on the same half", same))
    return rows


def q2(out):
    """Figures of the second experiment: a set of prompts each, raw and as a lift."""
    rows = []
    for name in SETS:
        folder = out / name
        if summary_of(folder) is None:
            continue
        run = read_json(folder / "run.json")
        comparisons, _ = read_comparisons(shared() / "data" / DSP, limit=run["limit"])
        comparisons = with_domain_prompts(comparisons, DOMAIN_PROMPTS[name])
        lift = read_lift(out / "none", run, comparisons)
        results = read_results(folder, comparisons, columns(run, AggregationOptions(), lift))
        prompted = [c for c in results.comparisons if c.system is not None]
        found_prompt = prompt_found(prompted, results.scores["logprob"])
        for score in ("sum", "logprob_mean", "lift"):
            values = results.scores[score]
            found = accuracy.summary(prompted, values, tokens=results.tokens)
            rows.append(
                {
                    "prompts": name,
                    "score": score,
                    "queries": len({json.dumps(c.prompt) for c in prompted}),
                    "comparisons": len(prompted),
                    "diagonal": found["accuracy"],
                    "best_of_n": found["best_of_n"],
                    "domains": found["domains"],
                    "intervals": {d: x["accuracy"] for d, x in found["subsets"].items()},
                    "spread": spread(prompted, values),
                    "prompt_found": found_prompt,
                }
            )
    return rows


def prompt_found(comparisons, log_probs):
    """How often a response is likeliest after the prompt of its own domain, with its interval when
    queries are resampled: what a response is like by itself cancels, its length too.

    A coin would be right once in as many times as there are prompts.
    """
    by_query = {}
    for comparison in comparisons:
        styles = comparison.chosen_styles + comparison.rejected_styles
        query = by_query.setdefault(json.dumps(comparison.prompt), {})
        for style, (key, _) in zip(styles, comparison.responses(), strict=True):
            query.setdefault(style, {})[comparison.subset] = log_probs[key]
    domains = {comparison.subset for comparison in comparisons}
    right = [
        np.mean([max(query[d], key=query[d].get) == d for d in sorted(domains & set(query))])
        for query in by_query.values()
        if all(set(each) == domains for each in query.values())
    ]
    if not right:
        return None
    one = np.ones(len(right))
    how = {"resamples": 2000, "seed": 0, "confidence": 0.95}
    return mean_intervals(np.array(right)[:, None], one, one, np.arange(len(right)), **how)[0]


def spread(comparisons, values):
    """How far responses to one prompt are apart: mean of the standard deviations, over prompts."""
    apart = [np.std([values[key] for key, _ in c.responses()], ddof=1) for c in comparisons]
    return float(np.mean(apart))


def interval(found):
    """A figure and its interval; a dash for none."""
    if found is None or found["value"] is None:
        return "–"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)


def first_tables(rows):
    """The first experiment: scores by data set, then the same with length held fixed, then the
    levels of RM-Bench.
    """
    data = list(dict.fromkeys(row["data"] for row in rows))
    most = {d: max(row["n"] for row in rows if row["data"] == d) for d in data}
    by_score = {}
    for row in rows:
        by_score.setdefault(row["score"], {})[row["data"]] = row

    def cell(row, figure):
        if row is None or figure not in row:
            return "–"
        fewer = "" if row["n"] == most[row["data"]] else f" ({row['n']})"
        return f"{interval(row[figure])}{fewer}"

    heads = [Column(""), *(Column(f"{TITLES[d]} ({most[d]})") for d in data)]
    parts = []
    for title, figure in (
        ("Accuracy", "accuracy"),
        ("Accuracy with length held fixed (logistic fit)", "logistic"),
        ("Accuracy on pairs of equal length", "matched"),
    ):
        lines = [
            (score, *(cell(of.get(d), figure) for d in data))
            for score, of in by_score.items()
            if any(figure in row for row in of.values())
        ]
        parts += [f"### {title}", Table("", heads, lines).markdown()]
    levelled = [d for d in data if any(row.get("levels") for row in rows if row["data"] == d)]
    if levelled:
        lines = [
            (score, *(" / ".join(f"{x:.3f}" for x in of[d]["levels"]) for d in levelled))
            for score, of in by_score.items()
            if all(d in of and of[d]["levels"] for d in levelled)
        ]
        heads = [Column(""), *(Column(f"{TITLES[d]}: hard / normal / easy") for d in levelled)]
        parts += ["### RM-Bench by level", Table("", heads, lines).markdown()]
    return parts


def tables(found, times):
    """The tables in Markdown; a number in parentheses says of how many comparisons, where it is
    not of all.
    """
    parts = first_tables(found["q1"])
    if found["q2"]:
        names = {"sum": "raw: `log π(y|x,c)`", "logprob_mean": "raw, per token", "lift": "lift"}
        rows = []
        for row in found["q2"]:
            largest = sum(max(m, key=m.get) == d for d, m in row["domains"].items())
            own = [interval(row["intervals"][d]) for d in row["domains"]]
            among = f"{largest} of {len(row['domains'])}"
            cells = [row["prompts"], names[row["score"]], row["queries"]]
            rows.append([*cells, interval(row["diagonal"]), among, *own, row["spread"]])
        domains = list(found["q2"][0]["domains"])
        columns = [Column("prompts"), Column("score"), Column("queries", "d", "right")]
        columns += [Column("own domain wins"), Column("largest of its row")]
        columns += [*map(Column, domains), Column("spread", ".3g", "right")]
        parts += ["### DSP", Table("", columns, rows).markdown()]
        each = {row["prompts"]: row["prompt_found"] for row in found["q2"]}
        rows = [(name, interval(value)) for name, value in each.items()]
        columns = [Column("prompts"), Column("prompt found from the response")]
        parts.append(Table("", columns, rows).markdown())
    lines = list(times.items())
    columns = [Column("job"), Column("seconds", ".0f", "right")]
    parts += ["### Seconds", Table("", columns, lines).markdown()]
    return "\n\n".join(parts) + "\n"


def hardware(device):
    """What it ran on."""
    import torch

    name = platform.processor() or platform.machine()
    if device.startswith("cuda") or (not device and torch.cuda.is_available()):
        name = torch.cuda.get_device_name()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def report(out, device=""):
    """Write what has been found until now; returns it."""
    found = {"machine": hardware(device), "seconds": seconds(out), "q1": q1(out), "q2": q2(out)}
    write_json(out / "preferences.json", found)
    facts = "".join(f"- {name}: {value}\n" for name, value in found["machine"].items())
    text = f"# Preferences and prompts\n\n{facts}\n{tables(found, found['seconds'])}"
    (out / "preferences.md").write_text(text, encoding="utf-8")
    return found


def parse(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["q1", "q2"], metavar="q1|q2")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--null", help="a model that knows nothing of the data, beside it")
    parser.add_argument("--device", default="")
    parser.add_argument("--out", type=Path, default=Path("out/preferences"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--judged", type=int)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--minutes", type=float, default=1e6, help="after which nothing goes on")
    EngineOptions.add_to(parser)
    arguments = parser.parse_args(words)
    try:
        arguments.engine = EngineOptions.read(arguments).chosen(processes=1)
    except ValueError as error:
        parser.error(str(error))
    if unknown := set(arguments.parts) - {"q1", "q2"}:
        parser.error(f"{sorted(unknown)[0]}: must be q1 or q2")
    arguments.out = arguments.out.resolve()
    return arguments


def main(words=None):
    """Run what is left to do and write the tables; 0 where everything is done."""
    arguments = parse(words)
    done = run(arguments)
    report(arguments.out, arguments.device)
    print((arguments.out / "preferences.md").read_text(encoding="utf-8"))
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
