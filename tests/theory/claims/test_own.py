"""A statement of one's own is read, decided and, where it is false, refuted."""

import math

import pytest

from theory import decide
from theory.claims.own import choose_statements, read_statements
from theory.claims.statements import STATEMENTS
from theory.studies.gallery import swapped_pair

TRUE = """
from theory import Quantity, Statement

gap = Quantity("V^{π_E} − V^{π̂}", lambda i: i.clone_gap)
bound = Quantity("H·R", lambda i: i.horizon * i.width)
mine = Statement("mine", "by me", gap, "≤", bound)
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "mine.py"
        path.write_text(text)
        return path

    return written


def test_a_true_statement_holds_and_a_false_one_is_violated(write):
    instances = [swapped_pair(4, alpha=1.0, epsilon=0.1)]
    [mine] = read_statements(write(TRUE))
    assert decide(mine, instances).verdict == "holds"
    [false] = read_statements(write(TRUE.replace("i.horizon * i.width", "0.0 * i.width")))
    assert decide(false, instances).verdict == "violated"


def test_it_goes_to_another_process_by_value(write):
    cloudpickle = pytest.importorskip("joblib.externals.cloudpickle")
    statements = read_statements(write(TRUE))
    sent = cloudpickle.loads(cloudpickle.dumps(statements))
    assert sent.names == ["mine"]
    assert decide(sent["mine"], [swapped_pair(4, alpha=1.0, epsilon=0.1)]).verdict == "holds"


def test_names_and_files_are_chosen_in_order(write):
    path = write(TRUE)
    chosen = choose_statements(["theorem-1", str(path)])
    assert chosen.names == ["theorem-1", "mine"]
    assert chosen[0] is STATEMENTS["theorem-1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no global name is a Statement"),
        ("from theory import STATEMENTS", "no global name is a Statement"),
        ("x = 1\n1 / 0", "line 2: ZeroDivisionError"),
        ("x = (", "line 1: SyntaxError"),
        ("import sys\nsys.exit(3)", "ends the program"),
        (TRUE.replace('"mine"', '"theorem-1"'), "'theorem-1' is taken"),
        (TRUE + "again = Statement('mine', '', gap, '≤', bound)", "two statements are called"),
    ],
)
def test_a_file_that_has_none_is_refused_in_one_line(write, text, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_statements(write(text))
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_an_unknown_name_say_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_statements(tmp_path / "none.py")
    with pytest.raises(ValueError, match="no statement is called 'theorem-9'"):
        choose_statements(["theorem-9"])


@pytest.mark.parametrize("collapse", [math.sqrt, float, lambda x: math.exp(x)])
def test_a_function_of_doubles_on_an_enclosure_names_the_one_to_use(write, collapse):
    """It would certify a true statement as violated."""
    [mine] = read_statements(write(TRUE))
    bound = type(mine.bound)("√KL", lambda i: collapse(i.kl_to_expert), unit="nats")
    left = type(mine.bound)("√KL", lambda i: i.kl_to_expert, unit="nats")
    statement = type(mine)("own", "me", left, "=", bound)
    with pytest.raises((TypeError, ValueError), match=r"np\.sqrt"):
        decide(statement, [swapped_pair(4, alpha=1.0, epsilon=0.1)])
