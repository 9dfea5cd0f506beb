"""Formulas on a page: hand-set ones, and that nothing of a formula is lost on the way."""

import re
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.claims.discounted import DISCOUNTED_STATEMENTS
from theory.claims.literature import LITERATURE
from theory.claims.statements import STATEMENTS
from theory.reports.notation import formula, typeset

FORMULAS = sorted(
    {s.formula for s in (*STATEMENTS, *DISCOUNTED_STATEMENTS)}
    | {s.formula for claim in LITERATURE for s in (*claim.holds, *claim.fails)}
)

PI_HAT = '<mover accent="true"><mi>π</mi><mo stretchy="false">^</mo></mover>'


def shape(html):
    """Tags and texts of MathML, as nested lists; attributes aside."""

    def of(node):
        parts = ([node.text] if node.text else []) + [of(child) for child in node]
        return [node.tag, *parts]

    return [of(node) for node in ET.fromstring(f"<x>{html}</x>")]


BY_HAND = {
    "V^{π_E}": ["msup", ["mi", "V"], ["msub", ["mi", "π"], ["mi", "E"]]],
    "½H^{3/2}": None,
    "TV_RR": ["msub", ["mi", "TV"], ["mi", "RR"]],
    "r*": ["msup", ["mi", "r"], ["mo", "*"]],
    "s₁": ["msub", ["mi", "s"], ["mn", "1"]],
    "π̂²": ["msup", ["mover", ["mi", "π"], ["mo", "^"]], ["mn", "2"]],
    "V^π_{r̂,α}": [
        "msubsup",
        ["mi", "V"],
        ["mrow", ["mover", ["mi", "r"], ["mo", "^"]], ["mo", ","], ["mi", "α"]],
        ["mi", "π"],
    ],
    "max_π": ["munder", ["mi", "max"], ["mi", "π"]],
    "√(1−x)": [
        "mrow",
        ["mo", "√"],
        ["mrow", ["mn", "1"], ["mo", "−"], ["mi", "x"]],
    ],
    "e^−1": ["msup", ["mi", "e"], ["mrow", ["mo", "−"], ["mn", "1"]]],
}


@pytest.mark.parametrize("text", [text for text, tree in BY_HAND.items() if tree])
def test_formulas_set_by_hand(text):
    assert shape(formula(text)) == [["math", BY_HAND[text]]]


def test_what_stands_under_a_root():
    """A root covers its brackets whole, or a sum up to the next factor."""
    found = formula("R_τ·√(KL(π̂‖π_E)/2)")
    (covered,) = re.findall('class="root">(.*)</mrow></mrow></math>', found)
    assert re.sub("<.*?>", "", covered) == "KL(π^‖πE)/2"
    first, second = re.findall(
        '√</mo><mrow class="root">(<mo movable.*?)</mrow></mrow>(?=<mo|</math>)',
        formula("√Σ(π_E−π̂)²/(π_E+π̂)·√Σ(π_E+π̂)(r*−c)²"),
    )
    assert [re.sub("<.*?>", "", x) for x in (first, second)] == [
        "∑(πE−π^)2/(πE+π^)",
        "∑(πE+π^)(r*−c)2",
    ]


def letters(text):
    """What a reader sees of a formula: its characters in any order, without the marks of scripts.

    Raised and lowered digits are digits, and a hat is a hat wherever it stands.
    """
    text = unicodedata.normalize("NFKD", text.replace("½", "½").replace("\u0302", "^"))
    text = text.replace("'", "′").replace("Σ", "∑")
    return sorted(c for c in text if not c.isspace() and c not in "{}_^()⁄")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_character_of_a_statement_is_lost(text):
    html = formula(text)
    shown = "".join(ET.fromstring(f"<x>{html}</x>").itertext())
    assert letters(shown) == letters(text)
    assert typeset(text).count("<math>") >= 1
    typed = "".join(ET.fromstring(f"<x>{typeset(text)}</x>").itertext())
    assert letters(typed) == letters(text)


@given(st.text(st.sampled_from("aVπ\u0302_^{}()[]√Σ·≤ *'12²₁½<&\"\n,"), max_size=24))
def test_any_text_gives_well_formed_markup(text):
    for html in (formula(text), typeset(text)):
        ET.fromstring(f"<x>{html}</x>")


@pytest.mark.parametrize(
    "text",
    [
        "2 rows could not be scored; a model_name, file_1.json and Qwen2.5-0.5B stay as they are",
        "<script>alert(1)</script>",
        "a [b] (c) {d} 1 + 1 = 2",
        "H = 4, V = 2",
    ],
)
def test_prose_stays_prose(text):
    assert "<math>" not in typeset(text)
    assert "<script" not in typeset(text)


def test_a_number_after_a_formula_is_none_of_it():
    assert typeset("greedy, from π̂ 0.123, and").endswith("</math> 0.123, and")
    assert typeset("π = 0.5, and").endswith("<mn>0.5</mn></math>, and")


def test_a_sentence_with_formulas():
    html = typeset("error over ε (ε = 0.01/√H): cloning 1.41 ± 0.03, RL on π̂ and\n(2) a")
    assert html.endswith(f"RL on <math>{PI_HAT}</math> and\n(2) a")
    assert html.startswith("error over <math>")
    assert "</math>: cloning 1.41 ± 0.03, RL on" in html
