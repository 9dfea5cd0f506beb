"""Every option of every command: it has help, and what it refuses is one line that names it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llm_bridge.commands.main import COMMANDS, _parser, main, page

EVERY = [
    pytest.param(command, group, one, id=f"{command.name} {one.on_command_line(group.prefix)}")
    for command in COMMANDS
    for group in command.groups
    for one in group.declared()
]
NUMBERS = [case for case in EVERY if case.values[2].kind in (int, float)]

ENOUGH = {
    "verify": "--model m --prompt a",
    "curves": "",
    "learn": "",
    "minimax": "",
    "solve": "mdp.npz --alpha 1",
    "check": "--model m --prompt a --sampled 4",
    "score": "--model m --pairs f --reference n",
    "train-reward": "--model m --pairs f",
    "ppo": "--model m --data f --teacher n",
    "validate": "--model m --prompt a --expert n",
}
"""What a command needs besides, so that any of its options may be read."""


def outside(one):
    """Words that are no number, and the numbers next to the range of an option."""
    yield "many"
    yield "nan"
    step = 1 if one.kind is int else 1e-3
    for bound in (one.low, one.high):
        if bound is not None:
            sign = 1 if bound == one.high else -1
            yield f"{bound + sign * max(step, abs(bound) * step)!r}"
    for bound in (one.above, one.below):
        if bound is not None:
            yield f"{bound!r}"


@pytest.mark.parametrize(("command", "group", "one"), EVERY)
def test_every_option_has_help(command, group, one):
    assert one.help
    assert not one.help.endswith(".")
    assert "\n" not in one.described()
    if one.kind is float:
        assert one.range


@pytest.mark.parametrize(("command", "group", "one"), NUMBERS)
def test_a_number_out_of_range_is_named_with_its_range(command, group, one, capsys):
    option = one.on_command_line(group.prefix)
    for word in outside(one):
        argv = [command.name, *ENOUGH[command.name].split(), f"{option}={word}"]
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"endorm {command.name}: {option}=")
        assert one.range in line
        assert one.unit in line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_name_is_there_twice_and_the_same_name_means_the_same(command):
    """A name has one range in all commands, and one unit."""
    known = {}
    for other in COMMANDS:
        for group in other.groups:
            for one in group.declared():
                known.setdefault(one.spelled(group.prefix), []).append(one)
    for group in command.groups:
        for one in group.declared():
            for same in known[one.spelled(group.prefix)]:
                assert (same.kind, same.many, same.unit) == (one.kind, one.many, one.unit)


def test_the_page_of_options_is_that_of_the_code():
    written = Path(__file__).resolve().parents[3] / "docs" / "commands.md"
    assert written.read_text(encoding="utf-8") == page(), "run: make docs"


def test_help_of_every_command_needs_no_torch():
    code = (
        "import sys, contextlib, io\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from llm_bridge.commands.main import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    for words in ([command.name, '--help'], ['--help']):\n"
        "        with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "            try:\n"
        "                main(words)\n"
        "            except SystemExit as end:\n"
        "                assert end.code == 0\n"
        "        assert command.name in out.getvalue()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_is_refused_before_anything_is_loaded():
    """A wrong path, and a horizon that no memory has a tree for."""
    tree = "--horizon=999999: the token tree of more than 1,000 steps fits no memory; "
    for words, said in (
        ("check --model letters --prompt A --horizon 999999", tree),
        ("verify --model letters --prompt A --horizon 999999", tree),
        ("check --model ./nothing --prompt A", "./nothing: "),
        ("score --model ./nothing --pairs pairs.jsonl", "./nothing: "),
        ("ppo --model ./nothing --task sums --out out", "./nothing: "),
    ):
        code = (
            "import sys\n"
            "sys.modules['torch'] = sys.modules['transformers'] = None\n"
            "from llm_bridge.commands.main import main\n"
            f"sys.exit(main({words.split()!r}))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, said in line) == (2, True), line


def test_a_task_that_needs_a_folder_names_its_option(capsys, tmp_path):
    words = ["ppo", "--model", "letters", "--task", "gsm8k", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--task gsm8k: --data-folder is missing: gsm8k-train is a short name; give" in line


def test_a_folder_that_cannot_be_made_is_named_without_a_number(capsys):
    assert main(["verify", "--out", "/proc/x"]) == 2
    assert capsys.readouterr().err == "endorm verify: /proc/x: No such file or directory\n"


def test_what_a_parser_refuses_is_one_line_too(capsys):
    for words in (["curves", "--alpha", "1"], ["solve"], ["nothing"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("endorm")


def test_a_misspelt_word_gets_its_neighbour(capsys):
    for words, said in (
        (["verfy"], "endorm: verfy: no such command; did you mean verify?"),
        (["version"], "endorm: version: no such command; did you mean --version?"),
        (["help"], "endorm: help: no such command; did you mean --help?"),
        (["frob"], "no such command; the commands are verify, curves,"),
        (["solve", "m.npz", "--alhpa", "1"], "endorm solve: --alhpa: no such option; did you mean"),
        (["solve", "m.npz", "another"], "endorm solve: another: one argument too many"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_without_a_command_all_of_them_are_listed(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert all(f"    {command.name} " in said for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_examples_with_options_that_there_are(command, capsys):
    assert command.examples
    for example in command.examples:
        _parser().parse_args(shlex.split(example)[1:])
    with pytest.raises(SystemExit):
        main([command.name, "--help"])
    assert f"examples:\n  {command.examples[0]}\n" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_commands(shell, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert "train-reward" in script
    assert "--epsilon" in script


@pytest.mark.parametrize(
    "words", [["--help"], ["ppo", "--help"], ["curves", "--family", "preference", "--out", "{tmp}"]]
)
def test_a_reader_that_has_gone_is_no_error(words, tmp_path):
    """As after ``endorm … | head -1``: silent, with the code of a process that SIGPIPE ends."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "llm_bridge.commands.main",
            *(word.format(tmp=tmp_path) for word in words),
        ],
        stdout=write,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
