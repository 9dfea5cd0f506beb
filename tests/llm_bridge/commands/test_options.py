"""A second model is the first one where nothing else is said."""

import argparse

import pytest

from llm_bridge.commands.options import read_pair, read_second
from llm_bridge.models.spec import ModelSpec
from theory.commands.options import Group


def parsed(words, prefix):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    ModelSpec.add_to(parser)
    Group(ModelSpec, prefix=prefix, optional=True).add_to(parser)
    return parser.parse_args(["--model", "m", *words.split()])


@pytest.mark.parametrize(
    ("words", "expert"),
    [
        ("", ModelSpec("m", temperature=0.9)),
        ("--temperature 0.5", ModelSpec("m")),
        ("--expert-temperature 1", ModelSpec("m")),
        ("--bits 4", ModelSpec("m")),
        ("--expert-bits 4", ModelSpec("m", bits=4)),
        ("--dtype bfloat16", ModelSpec("m")),
        ("--device cpu", ModelSpec("m", temperature=0.9, device="cpu")),
        ("--device cpu --expert n", ModelSpec("n", device="cpu")),
        ("--device cpu --expert-device cuda:1", ModelSpec("m", temperature=0.9, device="cuda:1")),
        (
            "--device cpu --expert-device-map auto",
            ModelSpec("m", temperature=0.9, device_map="auto"),
        ),
        ("--expert-device cpu --expert-temperature 1", ModelSpec("m", device="cpu")),
    ],
)
def test_the_expert(words, expert):
    assert read_pair(parsed(words, "expert-"))[1] == expert


def test_a_reference_is_there_only_if_it_is_named():
    first = ModelSpec("m", dtype="bfloat16", device="cpu")

    def read(words):
        return read_second(parsed(words, "reference-"), "reference-", first, dtype=first.dtype)

    assert read("") is None
    assert read("--reference n") == ModelSpec("n", dtype="bfloat16", device="cpu")
    with pytest.raises(ValueError, match="--reference-bits needs --reference"):
        read("--reference-bits 4")
    with pytest.raises(ValueError, match="--reference-bits=1: must be from 2 to 16 bits"):
        read("--reference n --reference-bits 1")
