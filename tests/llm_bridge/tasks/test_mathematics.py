r"""Mathematics problems of every published file, what a response answers, and which answers are the
same.
"""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.tasks import equivalence
from llm_bridge.tasks.answers import boxed, final_answer
from llm_bridge.tasks.equivalence import equivalent
from llm_bridge.tasks.mathematics import BOXED, DATA, problems

judging = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="no math-verify: pip install 'endorm[math]'",
)

ROWS = {"math500": 500, "aime24": 30, "amc23": 40, "minerva": 272, "olympiad": 675}
ROWS |= {"math-train": 7498, "math-test": 5000, "gsm8k-train": 7473, "gsm8k": 1319}


@pytest.fixture(scope="session")
def data(shared_models):
    folder = shared_models.parent / "data"
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}: set ENDORM_SHARED to the folder that holds data/")
    return folder


@pytest.fixture
def lines(tmp_path):
    def write(*rows):
        file = tmp_path / "some.jsonl"
        file.write_text(
            "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows),
            encoding="utf-8",
        )
        return file

    return write


# Reading


@pytest.mark.parametrize("name", DATA)
def test_published_files(data, name):
    task, bad = problems(name, data)
    assert task.name == name
    assert len(task.prompts) == len(set(task.prompts)) == ROWS[name]
    assert all(prompt.endswith("within \\boxed{}.") for prompt in task.prompts)
    assert [final_answer(f"thus $\\boxed{{{answer}}}$.") for answer in task.answers] == list(
        task.answers
    )
    where = [str(problem).partition(": ")[0].rpartition(":")[2] for problem in bad]
    assert where == (["7037", "7437"] if name == "math-train" else [])


def test_answers_of_the_published_files(data):
    first = {name: problems(name, data, limit=1)[0].answers[0] for name in DATA}
    assert first["math500"] == "\\left( 3, \\frac{\\pi}{2} \\right)"
    assert (first["aime24"], first["amc23"], first["minerva"], first["olympiad"]) == (
        "204",
        "27",
        "1.6",
        "2",
    )
    assert (first["gsm8k"], first["gsm8k-train"]) == ("18", "72")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"problem": "p", "answer": "5 "}, "5"),
        ({"question": "p", "answer": 27.0}, "27"),
        ({"question": "p", "answer": -0.5}, "-0.5"),
        ({"question": "p", "answer": "1 + 1 = 2\n#### 1,234"}, "1,234"),
        ({"question": "p", "final_answer": ["$1$", "2"], "answer_type": "Numerical"}, "$1$, 2"),
        ({"problem": "p", "solution": "\\boxed{1} or \\boxed{\\frac{1}{2}} m"}, "\\frac{1}{2}"),
    ],
)
def test_where_an_answer_stands(lines, row, answer):
    task, bad = problems(lines(row))
    assert (task.name, task.prompts, task.answers, bad) == (
        "some",
        (BOXED.replace("{problem}", "p"),),
        (answer,),
        [],
    )


def test_a_context_goes_before_the_question(lines):
    task, _ = problems(
        lines({"question": "q", "context": "c", "answer": "1"}), template="<{problem}> {x}"
    )
    assert task.prompts == ("<c\nq> {x}",)


def test_bad_rows_are_reported(lines):
    file = lines(
        {"problem": "p", "answer": "1"},
        "{",
        "",
        [1],
        {"answer": "1"},
        {"problem": "p"},
        {"problem": "p", "answer": True},
        {"problem": "p", "answer": ""},
        {"problem": "p", "answer": "#### "},
        {"problem": "p", "final_answer": "1"},
        {"problem": "p", "final_answer": []},
        {"problem": "p", "solution": "no box"},
        '{"problem": "p", "answer": NaN}',
        {"problem": "q", "answer": "2"},
    )
    task, bad = problems(file)
    assert task.answers == ("1", "2")
    assert [str(problem).removeprefix(f"{file}:") for problem in bad] == [
        "2: row 1: invalid JSON: Expecting property name enclosed in double quotes: line 1 column "
        "2 (char 1)",
        "4: row 2: must be a JSON object, got [1]",
        "5: row 3: question is missing (there are answer)",
        "6: row 4: answer, final_answer and solution are missing",
        "7: row 5: answer must be text, got true",
        "8: row 6: answer is empty",
        "9: row 7: the answer is empty",
        '10: row 8: final_answer must be a list of texts, got "1"',
        "11: row 9: final_answer must be a list of texts, got []",
        "12: row 10: solution has no \\boxed{…}",
        "13: row 11: answer must be a finite number, got nan",
    ]
    assert problems(file, limit=1)[1] == []


def test_errors_of_reading(lines, tmp_path):
    with pytest.raises(
        ValueError,
        match="folder=None: aime24 is a short name; give the folder that has math/aime24",
    ):
        problems("aime24")
    with pytest.raises(
        OSError, match=r"no such file; .* has none of the known files \(short names: math500, "
    ):
        problems("aime24", tmp_path)
    (tmp_path / "math").mkdir()
    (tmp_path / "math/amc23.jsonl").write_text('{"problem": "p", "answer": 1}')
    with pytest.raises(OSError, match=r"no such file; .* has amc23 "):
        problems("aime25", tmp_path)
    with pytest.raises(OSError, match="no such file; give a file"):
        problems("nowhere.jsonl")
    with pytest.raises(ValueError, match=r"template='x': must have \{problem\} where"):
        problems("amc23", tmp_path, template="x")
    with pytest.raises(ValueError, match="limit=0: must be at least 1"):
        problems("amc23", tmp_path, limit=0)
    with pytest.raises(ValueError, match=r"some.jsonl:1: row 0: question is missing"):
        problems(lines({"answer": "1"}))
    with pytest.raises(ValueError, match=r"some.jsonl: no rows; give data with problem and answer"):
        problems(lines())


# What a response answers


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}} is it", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed {3} and \\fbox{4}", "4"),
        ("\\boxed{\\boxed{6}}", "6"),
        ("\\boxed{5}\nPlease put your final answer within \\boxed{}.", "5"),
        (f"{BOXED.replace('{problem}', 'What is 1+1?')} It is 2", None),
        ("\\boxed{1} then \\boxed{\\frac{1}{", None),
        ("\\boxed{4", None),
        ("the answer is 5", None),
        ("", None),
        ("1 + 1\n#### 2\nQuestion: 3", "2"),
        ("####", None),
        ("#### 3 and \\boxed{4}", "4"),
        ("within \\boxed{}.\n#### 7", "7"),
        ("\\boxed 5", "5"),
        ("so $\\boxed5$. Next", "5"),
        ("it is \\boxed -12. Next", "-12"),
        ("\\boxed{6}, no, \\fbox \\frac{1}{2} m", "\\frac{1}{2} m"),
        ("\\boxed{\\boxed 5} it is", "5"),
        ("\\boxed\\{1,2\\}", "\\{1,2\\}"),
        ("\\boxed 1.5 \\fbox{}", "1.5"),
        ("\\boxed \\frac{1}{", None),
        ("in \\boxed form\n#### 5", "5"),
        ("in \\boxed.\n#### 5", "5"),
        ("\\boxedtext 5", None),
        ("\\boxed\\frac12$ m", "\\frac12"),
        ("$\\boxed\\text{yes}$", "\\text{yes}"),
        ("\\[\\boxed (1,2)\\]", "(1,2)"),
        ("\\boxed\n{ 5 }", " 5 "),
        ("\\boxed{{5}} and \\fbox{\\boxed{{6}}}", "{6}"),
    ],
)
def test_the_answer_of_a_response(response, expected):
    assert final_answer(response) == expected


@given(st.text("ab\\{}", max_size=30))
def test_a_box_holds_a_balanced_text(text):
    inside = boxed(f"\\boxed{{{text}}}")
    if inside is not None:
        assert inside in text
        assert boxed(f"\\boxed{{{inside}}}") == inside


def test_a_degenerate_response_is_read_fast():
    start = time.perf_counter()
    assert final_answer("\\boxed{" * 20_000) is None
    assert final_answer("\\boxed{}" * 20_000) is None
    assert time.perf_counter() - start < 5


# Whether two answers are the same

SAME = [
    ("5", "5."),
    ("5", "x=5"),
    ("x=5", "5"),
    ("27", "27.0"),
    ("025", "25"),
    ("-3", "- 3"),
    ("0", "-0"),
    ("\\frac{1}{2}", "\\dfrac{1}{2}"),
    ("\\frac12", "1/2"),
    ("0.5", "1/2"),
    ("1/3", "0.333333"),
    ("-1./3", "-\\tfrac13"),
    ("3\\frac{1}{2}", "3.5"),
    ("1,000", "1000"),
    ("1{,}000", "1,\\!000"),
    ("11,\\! 111", "11111"),
    ("\\frac{12}{5,\\!525}", "\\frac{12}{5525}"),
    ("\\$36", "36"),
    ("\\$36", "36 dollars"),
    ("18", "18 \\text{ eggs}"),
    ("\\approx 8.24 \\text{ mph}", "8.24"),
    ("166", "166 cm^2"),
    ("90", "90^\\circ"),
    ("90^{\\circ}", "90"),
    ("20\\%", "20"),
    ("20\\%", "0.2"),
    ("4.5e33", "4.5 \\times 10^{33}"),
    ("1e-8", "10^{-8}"),
    ("3e8", "3\\times10^8 \\mathrm{~m/s}"),
    ("2\\sqrt{2}", "\\sqrt8"),
    ("x^2+1", "1 + x^{2}"),
    ("f(x)=2 x", "2x"),
    ("2+3i", "3i+2"),
    ("n", "N"),
    ("(1,2)", "\\left( 1, 2 \\right)"),
    ("1,3,5", "5, 3, 1"),
    ("1,3,5", "\\{1,3,5\\}"),
    ("1,3,5", "1, 3 \\text{ and } 5"),
    ("$(1,8), (2,7)$", "(2,7),(1,8)"),
    ("1\\pm\\sqrt{2}", "1-\\sqrt2, 1+\\sqrt2"),
    ("81, 256", "256, 81"),
    ("[-1,2)", "-1\\le x<2"),
    ("(-\\infty,0)\\cup\\{1\\}", "\\{1\\}\\cup(-\\infty,0)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}"),
    ("\\text{(A)}", "A"),
    ("\\text{even}", "Even"),
    ("1011_2", "1011_{2}"),
    ("12_5", "12"),
    ("1A_{16}", "1\\text{A}_{16}"),
    ("x_1+x_2", "x_2+x_1"),
    ("9\\%", "\\frac{18}{2}"),
    ("\\frac{1}{2006\\cdot2005}", "\\frac{2004!}{2006!}"),
    ("1/\\sqrt2", "\\sqrt2/2"),
    ("2^{-99}", "1/2^{99}"),
    ("\\sqrt{5+2\\sqrt6}", "\\sqrt2+\\sqrt3"),
    ("(0.333333,1)", "(1/3,1)"),
    ("0.5x", "\\frac{x}{2}"),
    ("3 1/2", "\\frac{7}{2}"),
    ("-3 1/2", "-3.5"),
    ("(3 1/2,4)", "(7/2,4)"),
    ("33\\frac13\\%", "1/3"),
    ("10 000/3", "10000/3"),
    ("\\frac{1,000}{3}", "1000/3"),
    ("0.\\overline{3}", "1/3"),
    ("-0.1\\overline{6}", "-1/6"),
    ("1.\\overline{142857}", "8/7"),
    ("0.\\bar3", "\\frac13"),
    ("0.\\overline{9}", "1"),
    ("0.1666...", "1/6"),
    ("0.1212\\ldots", "\\frac{4}{33}"),
    ("\\{0.\\overline{3},1\\}", "\\{1,1/3\\}"),
    ("12_5", "(12)_5"),
    ("12_{ 5 }", "\\left(12\\right)_{(5)}"),
    ("12_{\\text{five}}", "012_5"),
    ("12_5+10_5", "22_5"),
    ("7!!", "105"),
    ("100!", "100\\cdot 99!"),
    ("\\binom{10}{3}", "120"),
    ("7^{2004}", "7 \\cdot 7^{2003}"),
    ("2^{64}", "18446744073709551616"),
    ("2^{64}", "1.8446744e19"),
    ("\\pi", "3.14159"),
    ("100\\pi", "314.159265"),
    ("2.5 \\text{ million}", "2500000"),
    ("\\$2 million", "2,000,000 dollars"),
    ("(20\\%,1)", "(0.2,1)"),
    ("\\varnothing", "\\emptyset"),
    ("5 \\text{ p.m.}", "5 PM"),
    ("(1,2),(3,4)", "(3,4),(1,2)"),
    ("\\{1,2\\}", "2,1"),
    ("(0,1)", "0<x<1"),
]
DIFFERENT = [
    ("5", ""),
    ("5", "6"),
    ("-3", "3"),
    ("(1,2)", "(2,1)"),
    ("[-1,2)", "(-1,2)"),
    ("1,3,5", "1,3"),
    ("5", "5,6"),
    ("$(1,8), (2,7)$", "(8,1),(2,7)"),
    ("81, 256", "81256"),
    ("10", "1 0"),
    ("10000001", "10000000"),
    ("1/3", "0.333"),
    ("1e-8", "0"),
    ("3.89e-10", "2e-10"),
    ("3.89e-10", "2 \\times 10^{-10} \\text{ m}"),
    ("3e8", "2\\cdot10^8"),
    ("1e-9", "\\sqrt{2}\\cdot 10^{-9}"),
    ("2", "2x"),
    ("2", "2 pi"),
    ("5", "5 \\text{ or } 6"),
    ("f(x)=2x", "g(x)=2x"),
    ("\\text{even}", "\\text{odd}"),
    ("\\text{(A)}", "B"),
    ("i", "-i"),
    ("1", "\\frac{1}{0}"),
    ("1", "1/0"),
    ("2", "2007 + \\frac\\pi 2"),
    ("1", "}{"),
    ("1", "\ud800"),
    ("1", "\x00\n"),
    ("1", "1e999999999"),
    ("1", "(" * 2000),
    ("5", "9" * 5000),
    ("1/2004!", "1/2006!"),
    ("1/2^99", "1/2^98"),
    ("-1/2^{99}", "1/2^{99}"),
    ("x^2", "x^2+10^{-30}"),
    ("(1/2^{99},1)", "(1/2^{98},1)"),
    ("\\{1/2^{99}\\}", "\\{1/2^{98}\\}"),
    ("[0,1/2^{99}]", "[0,1/2^{98}]"),
    ("x=1/2^{99}", "x=1/2^{98}"),
    ("\\frac{\\pi}{2^{99}}", "\\frac{\\pi}{2^{98}}"),
    ("(0.00000012,1)", "(0.00000034,1)"),
    ("12_5", "12_7"),
    ("12_5+1", "12_7+1"),
    ("\\{12_5,3\\}", "\\{12_7,3\\}"),
    ("0.1_2", "0.1_3"),
    ("12_{(5)}", "12_{(7)}"),
    ("12_{\\text{five}}", "12_\\text{seven}"),
    ("(12)_5", "(12)_7"),
    ("21_5+1", "12_5+10"),
    ("2", "3 1/2"),
    ("31/2", "3 1/2"),
    ("0.\\overline{3}", "0.3"),
    ("0.\\overline{12}", "0.\\overline{13}"),
    ("0.\\overline{3}", "0.33333"),
    ("3!!", "(3!)!"),
    ("100!", "100!+1"),
    ("10^{30}", "10^{30}+1"),
    ("2^{64}", "18446744073709551617"),
    ("2^{64}", "1.844e19"),
    ("7^{2004}", "7^{2005}"),
    ("10^{-400}", "10^{-401}"),
    ("1e-400", "0"),
    ("e^{\\pi\\sqrt{163}}", "262537412640768744"),
    ("1+10^{-30}", "1"),
    ("\\sqrt2", "\\sqrt2+10^{-30}"),
    ("1+10^{-30}i", "1"),
    ("\\pi", "3.14"),
    ("1 \\text{ million}", "1"),
    ("1 \\text{ million}", "1 \\text{ billion}"),
    ("5 \\text{ p.m.}", "5 \\text{ a.m.}"),
    ("\\{1,2\\}", "(1,2)"),
    ("\\{1,2\\}", "[1,2]"),
    ("2^x=0", "3^x=0"),
    ("0<x<1/2^{99}", "(0,1/2^{98})"),
    ("y=x/2^{99}", "y=x/2^{98}"),
    ("[1,10^{30})", "[1,10^{30}+1)"),
    ("[3,2)", "[4,1)"),
    ("x\\le10^{30}", "x\\le10^{30}+1"),
    ("\\log_2 3", "\\log_3 2"),
]


@judging
@pytest.mark.parametrize(("answer", "given"), SAME)
def test_the_same(answer, given):
    assert equivalent(answer, given)


@judging
@pytest.mark.parametrize(("answer", "given"), DIFFERENT)
def test_not_the_same(answer, given):
    assert not equivalent(answer, given)


@judging
@settings(deadline=None)  # the judging process is started in it
@given(st.text("0123456789.,%$\\{}frac/-+e x()^", max_size=12))
def test_judging_never_raises(text):
    assert equivalent("12", text) in (True, False)
    if text.strip("\\$ .,;") and "\\" not in text:
        assert equivalent(f"1+{text}y", f"1+{text}y")


FRACTIONS = st.builds(
    Fraction,
    st.integers(-(10**24), 10**24) | st.integers(-50, 50),
    st.integers(1, 10**24) | st.integers(1, 50),
)


def spellings(value):
    """A fraction in every exact form, each with a sign before it."""
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    yield f"{sign}{top}/{bottom}"
    yield f"{sign} \\dfrac{{{7 * top}}}{{{7 * bottom}}}"
    yield f"${sign}\\frac{{{top}}}{{{bottom}}}$."
    if top > bottom > 1:
        yield f"{sign}{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}"
        yield f"{sign}{top // bottom} {top % bottom}/{bottom}"
    if bottom <= 50:
        yield sign + long_division(top, bottom)


def long_division(top, bottom):
    """The decimal of a fraction, its repeating digits under a line."""
    whole, rest = divmod(top, bottom)
    digits, seen = "", {}
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, bottom)
        digits += str(digit)
    return f"{whole}.{digits[: seen[rest]]}\\overline{{{digits[seen[rest] :]}}}"


@judging
@given(FRACTIONS, FRACTIONS, st.integers(1, 10**24))
def test_fractions_are_compared_exactly(one, two, large):
    near = one + Fraction(1, large)
    for right in spellings(one):
        assert all(equivalent(right, given) for given in spellings(one))
        assert not any(equivalent(right, given) for given in spellings(near))
        assert {equivalent(right, given) for given in spellings(two)} == {one == two}


FORMS = ["\\{{{},7\\}}", "(-10^{{30}},{}]", "x={}", "{}x"]


@judging
@settings(deadline=None, max_examples=15)
@given(FRACTIONS, st.integers(2, 10**24), st.sampled_from(FORMS))
def test_fractions_in_answers_are_compared_exactly(one, large, form):
    right, near = form.format(f"({one})"), form.format(f"({one + Fraction(1, large)})")
    other = form.format(f"\\frac{{{3 * one.numerator}}}{{{3 * one.denominator}}}")
    assert equivalent(right, other)
    assert not equivalent(right, near)


@judging
@pytest.mark.parametrize("name", ["math500", "aime24", "amc23", "minerva", "olympiad"])
def test_right_answers_are_right(data, name):
    task, _ = problems(name, data)
    responses = [
        f"{prompt} Thus $x = \\boxed{{{a}}}$."
        for prompt, a in zip(task.prompts, task.answers, strict=True)
    ]
    assert task.correct(responses).all()
    assert not task.correct(["no idea"] * len(responses)).any()


@judging
def test_marked_solutions_of_gsm8k(data):
    lines = (data / "gsm8k/example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        truth, marked = row["ground_truth"], row["6b_finetuning"]
        answers = (text.rpartition("A: ")[2] for text in (truth, marked["solution"]))
        assert equivalent(*answers) == marked["is_correct"]


@judging
@pytest.mark.parametrize("tower", ["9^{9^{9^{9}}}", "(10^{10})!"])
def test_an_answer_that_takes_too_long_is_wrong(monkeypatch, tower):
    monkeypatch.setattr(equivalence, "SECONDS", 1.0)
    start = time.perf_counter()
    assert not equivalent("17", f"{tower}+x")
    assert time.perf_counter() - start < 30
    monkeypatch.undo()
    assert equivalent("17+y", "y+17")


@judging
def test_judging_in_threads():
    found = {}

    def work(n):
        found[n] = [equivalent(f"{n}+z^{k}", f"z^{k}+{n}") for k in range(2, 5)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(all(found[n]) for n in range(4))


@judging
def test_the_worker_ends_with_the_program():
    code = (
        "from llm_bridge.tasks import equivalence as m; assert m.equivalent('a+b', 'b+a'); "
        "print(m._worker.process.pid)\n"
        "import sys; assert 'torch' not in sys.modules and 'math_verify' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    ended = subprocess.run(
        [sys.executable, "-c", f"import os; os.kill({done.stdout}, 0)"], capture_output=True
    )
    assert ended.returncode != 0


def test_without_math_verify(monkeypatch):
    equivalent.cache_clear()
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        ValueError, match=r"math-verify, which is not installed: pip install 'endorm\[math\]'"
    ):
        equivalent("1", "1")


def test_a_math_verify_that_does_not_work(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no antlr')")
    monkeypatch.syspath_prepend(tmp_path)
    equivalence._worker.close()
    equivalent.cache_clear()
    with pytest.raises(
        ValueError,
        match=r"math-verify cannot be used \(ImportError no antlr\); install it anew: pip",
    ):
        equivalent("1+x", "x+1")
