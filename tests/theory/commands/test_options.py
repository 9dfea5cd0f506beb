"""Options declared as dataclass fields: what is parsed, what is refused, and in which words."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from theory.commands.options import Command, Group, OptionError, Options, option


@dataclass(frozen=True)
class Every(Options):
    """One option of every kind."""

    model: str = option(help="which model", main=True)
    alpha: float = option(1.0, help="temperature", unit="reward units", low=1e-9, high=1e9)
    share: float = option(0.95, help="100% of it", above=0, below=1)
    count: int | None = option(None, help="how many", low=1, high=10**6)
    clip: float | None = option(0.2, help="off by none", above=0)
    horizons: tuple[int, ...] = option((2, 4), help="tokens", low=1, high=2**16, group="sizes")
    prompt: tuple[str, ...] = option((), help="a prompt", words="repeated")
    files: tuple[Path, ...] = option((), help="files", words="following")
    reward: Literal["dense", "sum"] = option("dense", help="which reward")
    out: Path = option(Path("out"), help="folder", writes="folder", affects_results=False)
    fast: bool = option(False, help="quickly")
    eos: bool | None = option(None, help="whether end tokens end")
    anneal: bool = option(True, help="whether it falls")

    def unread(self):
        return {} if self.count else {"fast": "needs {count}"}

    def check(self):
        if self.share > self.alpha:
            raise OptionError("share", "is above {alpha}", self.share)


def read(*words, prefix=""):
    parser = argparse.ArgumentParser()
    Every.add_to(parser, prefix)
    return Every.read(parser.parse_args(words), prefix)


def test_every_kind_is_parsed():
    assert read("--model", "m") == Every("m")
    words = "--model m --alpha 2 --count 3 --clip none --horizons 8,4 --prompt a,b --prompt c "
    words += "--files x y --files z --reward sum --out o --fast --no-eos --no-anneal"
    assert read(*words.split()) == Every(
        "m",
        alpha=2.0,
        count=3,
        clip=None,
        horizons=(8, 4),
        prompt=("a,b", "c"),
        files=(Path("x"), Path("y"), Path("z")),
        reward="sum",
        out=Path("o"),
        fast=True,
        eos=False,
        anneal=False,
    )


def test_a_prefix_is_before_every_name_and_stands_for_the_main_one():
    found = read("--expert", "m", "--expert-alpha", "3", prefix="expert-")
    assert found == Every("m", alpha=3.0)
    with pytest.raises(ValueError, match="--expert-alpha=0: must be from 1e-09 to 1e"):
        read("--expert", "m", "--expert-alpha", "0", prefix="expert-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--alpha x", "--alpha=x: must be a number, from 1e-09 to 1e+09 reward units"),
        ("--alpha nan", "--alpha=nan: must be from 1e-09 to 1e+09 reward units"),
        ("--share 1", "--share=1: must be above 0 and below 1"),
        ("--count 1.5", "--count=1.5: must be a whole number, from 1 to 1,000,000"),
        ("--count 0", "--count=0: must be from 1 to 1,000,000"),
        ("--clip 0", "--clip=0: must be above 0, or none for off"),
        ("--horizons 3,0", "--horizons=0: must be from 1 to 65,536"),
        ("--horizons=", "--horizons=: must be at least one of the whole numbers separated by"),
        (f"--count {10**400}", "--count=1000"),
        ("--horizons 3,", "--horizons=: must be whole numbers separated by commas, from 1 to "),
        ("--reward none", "--reward=none: must be one of dense, sum"),
        ("--fast", "--fast needs --count"),
        ("--alpha 0.5", "--share=0.95: is above --alpha"),
    ],
)
def test_what_is_refused_is_named_as_it_was_typed(words, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read("--model", "m", *words.split())
    assert str(caught.value).startswith(message)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"out=.*/file: is a file; give a folder"):
        Every("m", out=tmp_path / "file")
    assert Every("m", out=tmp_path / "new" / "folder").out.name == "folder"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": math.inf}, "alpha=inf: must be from 1e-09 to 1e+09 reward units"),
        ({"alpha": "1"}, "alpha='1': must be a number, from 1e-09 to 1e+09 reward units"),
        ({"alpha": True}, "alpha=True: must be a number"),
        ({"count": 2.0}, "count=2.0: must be a whole number, from 1 to 1,000,000"),
        ({"horizons": 3}, "horizons=3: must be a tuple of whole numbers"),
        ({"fast": 1}, "fast=1: must be True or False"),
        ({"fast": True}, "fast needs count"),
        ({"reward": "x"}, "reward='x': must be one of dense, sum"),
    ],
)
def test_the_same_checks_hold_in_python(values, message):
    with pytest.raises(OptionError) as caught:
        Every("m", **values)
    assert str(caught.value).startswith(message)


def test_what_is_missing_is_named():
    parser = argparse.ArgumentParser()
    Group(Every, optional=True).add_to(parser)
    with pytest.raises(ValueError, match="--model is missing"):
        Every.read(parser.parse_args([]))
    assert Every.read(parser.parse_args([]), model="m") == Every("m")


def test_reports_hold_the_names_of_the_command_line():
    values = Every("m").as_dict("expert-")
    assert list(values)[:2] == ["expert", "expert_alpha"]
    assert values["expert_horizons"] == [2, 4]
    assert values["expert_out"] == "out"
    assert values.keys() - Every("m").as_dict("expert-", results_only=True).keys() == {"expert_out"}


def test_help_says_unit_range_and_default():
    parser = argparse.ArgumentParser(prog="x")
    command = Command("go", "runs", (Group(Every, title="what"),), lambda namespace: 0)
    text = command.add_to(parser.add_subparsers()).format_help()
    text = " ".join(text.split())
    assert "temperature (from 1e-09 to 1e+09 reward units; default 1)" in text
    assert "100% of it (above 0 and below 1; default 0.95)" in text
    assert "what: --model TEXT" in text
    assert "sizes: --horizons N[,N…]" in text
    assert "--reward {dense,sum}" in text


def test_an_unknown_kind_is_refused():
    @dataclass(frozen=True)
    class Wrong(Options):
        shape: complex = option(1j, help="none")

    with pytest.raises(TypeError, match="an option is one of int, float, str"):
        Wrong()
