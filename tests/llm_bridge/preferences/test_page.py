"""The readable report: tokens as text, the HTML as a parser sees it, and the heat map of
domains.
"""

import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llm_bridge.preferences import token_texts as module
from llm_bridge.preferences.page import domain_figure, score_report, token_sections
from llm_bridge.preferences.pairs import RM_BENCH_STYLES, Comparison
from llm_bridge.preferences.token_texts import completed_texts, token_bytes
from theory.reports.report import Plot, Report, save_figure

EVIL = (
    """</div></i><script>document.title='pwned'</script>"""
    """<img src=x onerror="alert(1)">&amp;&lt; ' "><!-- ]]>"""
)
TEXTS = st.text(st.sampled_from("ab é漢字😀\n\t<&\"'\r\x00\x1b\x7f\x85"), min_size=1, max_size=30)
VOID = {"meta", "input", "br", "img", "link", "hr"}


def wrap(tokenizer):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level(special=()):
    """Byte-level BPE without a split into words, so that tokens end inside characters and span
    them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(
        ["字漢字漢字漢", "a 漢字😀é a 😀😀é<é", "aé漢 bé漢 é\n\né\n"] * 3, trainer
    )
    tokenizer.add_special_tokens(["<|end|>", *special])
    return wrap(tokenizer)


def byte_fallback():
    """SentencePiece: spaces inside the pieces, one put before the text, bytes for what has no
    piece.
    """
    names = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
        "é",
    ]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return wrap(tokenizer)


def words():
    """No decoder at all: tokens are joined by spaces. One is written like a byte and is none."""
    tokenizer = Tokenizer(
        models.WordLevel({"a": 0, "bc": 1, "<0x41>": 2, "<unk>": 3}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap(tokenizer)


def word_pieces():
    tokenizer = Tokenizer(
        models.WordPiece({"a": 0, "##b": 1, "b": 2, ",": 3, "[UNK]": 4}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return wrap(tokenizer)


TOKENIZERS = {
    "byte level": byte_level(),
    "byte fallback": byte_fallback(),
    "words": words(),
    "pieces": word_pieces(),
}
BYTE_LEVEL = TOKENIZERS["byte level"]


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def pieces(records, tokenizer=BYTE_LEVEL):
    return {key: token_bytes(tokenizer, r["token_ids"]) for key, r in records.items()}


def token_texts(tokenizer, ids):
    return completed_texts(token_bytes(tokenizer, ids))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
@example(text="  a  b\n\n 漢😀 ab�")
def test_token_texts_join_to_the_decoded_text(name, text):
    ids = encode(TOKENIZERS[name], text)
    texts = token_texts(TOKENIZERS[name], ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == decode(TOKENIZERS[name], ids)


@given(text=TEXTS)
def test_a_character_goes_to_the_token_that_completes_it(text):
    ids = encode(BYTE_LEVEL, text)
    texts = token_texts(BYTE_LEVEL, ids)
    for k in range(len(ids) + 1):
        assert "".join(texts[:k]) == decode(BYTE_LEVEL, ids[:k]).rstrip("�")


SPECIAL = byte_level(
    ["<漢 é>", "éé"]
)  # the second has letters for bytes only, and is decoded as bytes


@given(
    ids=st.lists(
        st.integers(0, len(SPECIAL) + 2) | st.integers(len(SPECIAL) - 3, len(SPECIAL)), max_size=20
    )
)
def test_any_ids_of_a_byte_level_vocabulary(ids):
    assert "".join(token_texts(SPECIAL, np.array(ids, dtype=int))) == decode(SPECIAL, ids)


def test_byte_level_tokenizers_written_in_python():
    class Slow:  # as those of tiktoken vocabularies: no backend, and a table of letters
        byte_decoder = module.BYTES
        decode = staticmethod(BYTE_LEVEL.decode)
        convert_ids_to_tokens = staticmethod(BYTE_LEVEL.convert_ids_to_tokens)

    ids = encode(BYTE_LEVEL, "a 龍漢")
    assert token_texts(Slow(), ids) == token_texts(BYTE_LEVEL, ids)
    assert "".join(token_texts(Slow(), ids)) == "a 龍漢"


def test_byte_letters_are_those_of_byte_level_vocabularies():
    assert set(module.BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(module.BYTES.values()) == list(range(256))


def test_spaces_bytes_and_special_tokens():
    sentence, level = TOKENIZERS["byte fallback"], BYTE_LEVEL
    assert token_texts(sentence, encode(sentence, "ab  a漢b")) == [
        "ab",
        " ",
        " a",
        "",
        "",
        "漢",
        "b",
    ]
    assert token_texts(sentence, [1 + 0xE6, 1 + 0xBC]) == ["", "�"]  # a character that never comes
    assert token_texts(level, encode(level, "b<|end|>")) == ["b", "<|end|>"]
    assert token_texts(TOKENIZERS["words"], [0, 2, 1]) == ["a", " <0x41>", " bc"]
    assert token_texts(TOKENIZERS["pieces"], [0, 1, 2]) == ["a", "b", " b"]
    assert token_texts(level, []) == []


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_texts_take_linear_time(name, monkeypatch):
    tokenizer, decoded = TOKENIZERS[name], []
    decode = tokenizer.decode
    monkeypatch.setattr(
        tokenizer,
        "decode",
        lambda ids, **options: decoded.append(len(ids)) or decode(ids, **options),
    )
    ids = encode(tokenizer, "a 漢 ab, " * 200)
    token_texts(tokenizer, ids)
    assert sum(decoded) <= 4 * len(ids)


def test_stories_tokenizer(shared_models):
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(shared_models / "stories260K")

    @given(TEXTS)
    @example("Once upon a time, there was  a\n\n漢😀 girl.")
    def check(text):
        ids = encode(tokenizer, text)
        assert "".join(token_texts(tokenizer, ids)) == decode(tokenizer, ids) == text

    check()
    assert token_texts(tokenizer, encode(tokenizer, "Once upon a time")) == [
        "Once",
        " upon",
        " a",
        " time",
    ]


class Page(HTMLParser):
    """What a browser would find: elements balanced, attributes and the text of each token."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements, self.tokens, self.text = [], [], [], {}
        self.source = path.read_bytes().decode("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag == "i":
            self.tokens.append([dict(attributes), ""])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "i" in self.open:
            self.tokens[-1][1] += data
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def bins(self, letter):
        return [
            int(re.search(rf"\b{letter}(\d+)\b", token["class"])[1]) for token, _ in self.tokens
        ]


def record(key, text, rng, tokenizer=BYTE_LEVEL, **changes):
    ids = encode(tokenizer, text)
    rewards, log_probs = rng.normal(size=len(ids)) * 3, -rng.exponential(size=len(ids))
    values = {
        "id": key[0],
        "role": key[1],
        "index": key[2],
        "subset": "s",
        "tokens": len(ids),
        "token_ids": ids,
        "rewards": rewards.tolist(),
        "log_probs": log_probs.tolist(),
        "reward_sum": float(rewards.sum()),
        "log_prob": float(log_probs.sum()),
        "soft_value_prompt": 2.5,
    }
    return values | changes


def make(comparisons, seed=0, **changes):
    rng = np.random.default_rng(seed)
    return {
        key: record(key, text, rng, **changes) for c in comparisons for key, text in c.responses()
    }


PAIR = Comparison("s/1", "What is 2 + 2?", ("It is 4.",), ("It is\n\n5 é漢😀龍.",), "s")
NINE = Comparison(
    "chat/2",
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "?"},
    ],
    ("a", "a b", "# a"),
    ("b", "b a", "# b"),
    "chat",
    "Be brief.",
    RM_BENCH_STYLES,
    RM_BENCH_STYLES,
)


@pytest.fixture
def render(tmp_path):
    def render(comparisons, records=None, *, title="run", facts=None, **options):
        records = make(comparisons) if records is None else records
        sections = token_sections(comparisons, records, pieces(records), **options)
        (path,) = Report(title, facts=facts or {}, sections=sections).save(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
        return Page(path)

    return render


def test_tokens_join_to_the_responses_and_carry_their_numbers(render):
    records = make([PAIR, NINE])
    page = render([PAIR, NINE], records)
    texts = [text for c in (PAIR, NINE) for _, text in c.responses()]
    assert "".join(text for _, text in page.tokens) == "".join(texts)
    rows = [
        (r, p)
        for record in records.values()
        for r, p in zip(record["rewards"], record["log_probs"], strict=True)
    ]
    assert len(rows) == len(page.tokens)
    for row, (token, _) in zip(rows, page.tokens, strict=True):
        written = re.search(r" · reward (\S+) · log π (\S+)$", token["title"]).groups()
        assert [number(text) for text in written] == [
            pytest.approx(x, rel=0.05, abs=0.005) for x in row
        ]
        assert token["tabindex"] == "0"
    assert page.tokens[0][0]["title"].startswith("I")
    assert any(token["title"].startswith("0xE9 ") for token, text in page.tokens if not text)
    shown = [number(text) for text in page.text["strong"][1:]]  # after those of the explanation
    for n, record in enumerate(records.values()):
        expected = (
            record["reward_sum"],
            record["reward_sum"] / record["tokens"],
            record["log_prob"],
            2.5,
        )
        assert shown[4 * n : 4 * n + 4] == [pytest.approx(x, rel=0.05, abs=0.005) for x in expected]


def number(text):
    return float(text.replace("−", "-"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0, "0.00"),
        (0.00123, "0.0012"),
        (-0.0456, "−0.046"),
        (-1.005e4, "−10050.00"),
        (2.346, "2.35"),
        (-np.inf, "−inf"),
    ],
)
def test_small_numbers_keep_their_digits(render, value, text):
    page = render([PAIR], {k: v | {"soft_value_prompt": value} for k, v in make([PAIR]).items()})
    assert page.text["strong"][1:][3] == text


def test_shades_are_monotone_centred_and_robust(render):
    rewards = np.append(np.linspace(-10, 10, 401), [1e6, -1e6, np.inf])
    log_probs = -np.append(np.linspace(0, 8, 403), np.inf)
    ids = encode(BYTE_LEVEL, "a") * len(rewards)
    ramp = {
        "token_ids": ids,
        "rewards": rewards.tolist(),
        "log_probs": log_probs.tolist(),
        "tokens": len(ids),
    }
    chosen, rejected = make([PAIR]).items()
    page = render([PAIR], {chosen[0]: chosen[1] | ramp, rejected[0]: rejected[1]})
    r, p = (np.array(page.bins(letter))[: len(rewards)] for letter in "rp")
    assert set(r) == set(range(17))
    assert (np.diff(r[np.argsort(rewards)]) >= 0).all()
    np.testing.assert_array_equal(r[:401] + r[400::-1], 16)
    assert set(r[rewards == 0]) == {8}
    assert set(p) == set(range(9))
    assert (np.diff(p) >= 0).all()
    ends = re.findall(r'<b class="(?:r16|p8)">[≥≤] −?([\d.]+)</b>', page.source)
    assert [9 < float(ends[0]) <= 10, 7 < float(ends[1]) <= 8] == [
        True,
        True,
    ]  # no token of a million sets a scale


@pytest.mark.parametrize(("value", "shade"), [(0.0, 8), (-0.0, 8), (1e-300, 16), (-np.inf, 0)])
def test_rewards_without_a_scale(render, value, shade):
    page = render(
        [PAIR], {k: v | {"rewards": [value] * v["tokens"]} for k, v in make([PAIR]).items()}
    )
    assert len(page.tokens) > 5
    assert set(page.bins("r")) == {shade}


def test_colours_are_legible_on_both_pages(render):
    light, dark = (
        render([PAIR]).source.split("</style>")[0].rsplit("@media (prefers-color-scheme:dark)", 1)
    )
    grounds = re.findall(r"--page:(#\w+);--ink:(#\w+)", light)

    def rgb(text):
        text = "".join(2 * c for c in text[1:]) if len(text) == 4 else text[1:]
        return np.array([int(text[k : k + 2], 16) for k in range(0, 6, 2)]) / 255

    def luminance(color):
        return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4) @ [
            0.2126,
            0.7152,
            0.0722,
        ]

    for (page, ink), rules in zip(grounds, (light, dark), strict=True):
        shades = dict(re.findall(r"\.([rp]\d+)\{--[rp]:(#\w{8})", rules))
        assert shades.keys() == {f"r{k}" for k in range(17)} | {f"p{k}" for k in range(9)}
        alphas = [int(shades[f"r{k}"][7:], 16) for k in range(17)]
        assert alphas == alphas[::-1]
        assert sorted(set(alphas), reverse=True) == alphas[:9]
        for shade in shades.values():
            alpha = int(shade[7:], 16) / 255
            ground = luminance(alpha * rgb(shade) + (1 - alpha) * rgb(page))
            low, high = sorted([ground, luminance(rgb(ink))])
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA


def test_low_rewards_are_told_apart_without_colour(render):
    style = render([PAIR]).source
    assert {int(k) for k in re.findall(r"\.r(\d+)\{[^}]*--low:underline", style)} == set(range(8))


def test_nothing_in_the_data_becomes_markup(render):
    messages = [{"role": EVIL, "content": EVIL}]
    comparison = Comparison(
        EVIL, messages, (EVIL, "b"), (EVIL + "a",), EVIL, EVIL, (EVIL, "y"), (EVIL,)
    )
    page, plain = (
        render([comparison], title=EVIL, facts={EVIL: EVIL}),
        render([PAIR, NINE], facts={"a": "b"}),
    )
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert all(token.keys() == {"class", "title", "tabindex"} for token, _ in page.tokens)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for place in ("title", "h1", "h2", "dt", "dd", "a", "th", "h3"):
        assert EVIL in "".join(page.text[place])
    assert page.text["div"].count(EVIL) == 2  # system and message
    assert "".join(text for _, text in page.tokens) == EVIL + "b" + EVIL + "a"


def test_the_file_needs_no_other(render):
    page = render([PAIR, NINE])
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert [a["href"] for a in page.all("a")] == [
        f"#{section['id']}" for section in page.all("section")
    ]
    assert not [word for word in ("url(", "@import", "://") if word in page.source]
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@given(text=TEXTS)
@example(text="\n\n a\t\r\x00")
def test_whitespace_stays_and_control_characters_are_pictured(tmp_path_factory, text):
    comparison = Comparison("1", text, (text,), ("z",), "s")
    records = make([comparison])
    sections = token_sections([comparison], records, pieces(records))
    made = Report(text, facts={text: text}, sections=sections)
    (path,) = made.save(tmp_path_factory.mktemp("html"))
    page = Page(path)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.source)  # HTML forbids them
    pictures = {"\r": "␍", "\x00": "␀", "\x1b": "␛", "\x7f": "␡", "\x85": "�"}
    shown = "".join(pictures.get(c, c) for c in text)
    assert "".join(text for _, text in page.tokens) == shown + "z"
    assert shown in page.text["div"]


def test_pairs_are_marked(render):
    records = make([NINE])
    for (key, _), total in zip(NINE.responses(), (3, 1, 2, 2, 0, 5), strict=True):
        records[key]["reward_sum"] = float(total)
    page = render([NINE], records)
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.*)</tr>', page.source)
    assert (
        [name for name, _ in rows]
        == re.findall(r'<th scope="col">(\w+)</th>', page.source)
        == list(RM_BENCH_STYLES)
    )
    first, second, third = ([*re.findall("<td[^>]*>(.*?)</td>", row)] for _, row in rows)
    assert first == ["✓ +1.00", "✓ +3.00", "✗ −2.00"]
    assert second == ["✗ −1.00", "✓ +1.00", "✗ −4.00"]
    assert third == ["= +0.00", "✓ +2.00", "✗ −3.00"]
    assert page.text["small"].count("✓ 4 of 9") == 2
    assert "4 of 9 pairs are ordered right, by reward sum." in page.text["p"][0]
    sides = [f"{role} {style}" for role in ("chosen", "rejected") for style in RM_BENCH_STYLES]
    assert page.text["h3"] == ["system", "user", "assistant", "user", *sides]


def test_sums_order_the_responses(render):
    records = make([PAIR])
    for margin, mark in ((2.0, "✓ +2.00"), (-2.0, "✗ −2.00"), (0.0, "= +0.00")):
        records["s/1", "chosen", 0]["reward_sum"] = (
            records["s/1", "rejected", 0]["reward_sum"] + margin
        )
        page = render([PAIR], records)
        assert f"chosen − rejected: {mark}" in page.text["p"]
    assert page.text["small"].count("=") == 2


def test_compact_and_deterministic(render):
    text = "The answer is, 漢 of course, <b>four</b>.\n" * 40
    comparison = Comparison("1", "q", (text,), ("b",), "s")
    records = make([comparison])
    n, shell = records["1", "chosen", 0]["tokens"], len(render([PAIR]).source.encode())
    page = render([comparison], records)
    assert n > 500
    assert len(page.source.encode()) - shell < 110 * n
    assert render([comparison], records).source == page.source
    assert "style" not in {name for _, attributes in page.elements for name in attributes}


def test_the_switch_needs_no_script(render):
    page = render([PAIR])
    switch = [a for a in page.all("input") if a["type"] == "radio"]
    assert [("checked" in a, a["name"]) for a in switch] == [(True, "colour"), (False, "colour")]
    assert f":root:has(#{switch[1]['id']}:checked) i{{background:var(--p)" in page.source


def test_no_comparison_and_half_a_surrogate_pair(render):
    assert render([], title="\udcff").text["h1"] == ["\\udcff"]


def test_a_file_appears_whole_or_not_at_all(render, tmp_path):
    before = render([PAIR]).source
    records = make([PAIR, NINE])
    records["chat/2", "rejected", 2]["rewards"].append(0.0)
    with pytest.raises(ValueError, match="zip"):
        render([PAIR, NINE], records)
    with pytest.raises(ValueError, match=r"records have nothing for \('chat/2', 'chosen', 0\)"):
        render([PAIR, NINE], make([PAIR]))
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == [before]


def test_torch_is_not_needed():
    code = "import sys, llm_bridge.preferences.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def summary(value, **more):
    """Of one score on subsets ``a`` and ``b``, as `llm_bridge.preferences.accuracy` has it."""
    rate = {"value": value, "low": value - 0.1, "high": value + 0.1}
    one = {
        "comparisons": 4,
        "accuracy": rate,
        "nulls": {"shorter (characters)": {"accuracy": rate}},
        "length_controlled": {
            "characters": {
                "matched": {"value": None, "pairs": 0},
                "logistic": {"value": value / 2},
            }
        },
    }
    return one | {"subsets": {"a": one | more, "b": one}}


def test_accuracies_stand_before_the_tokens():
    levels = {level: {"value": k / 4} for k, level in enumerate(("hard", "normal", "easy"))}
    scores = {"sum": summary(0.5, **levels), "mean": summary(0.25)}
    records = make([PAIR])
    tokens = token_sections([PAIR], records, pieces(records))
    made = score_report("run", {}, scores, tokens)
    lines = [line.split() for line in made.text().splitlines()]
    assert [
        "(all)",
        "sum",
        "4",
        "0.500",
        "[0.400,",
        "0.600]",
        "–",
        "(0)",
    ] in lines
    assert ["mean", "0.250", "[0.150,", "0.350]", "–", "(0)"] in lines
    assert max(map(len, made.text().splitlines())) <= 80
    assert made.summary[0] == "sum: 0.500 [0.400, 0.600] of 4 comparisons ordered right."
    assert "shorter response is right for 0.500 [0.400, 0.600]" in made.summary[1]
    assert any("0.000/0.250/0.500" in line for line in lines)
    assert not [section for section in made.sections if isinstance(section, Plot)]
    scores["sum"]["domains"] = {"a": {"a": 0.75, "b": 0.25}, "b": {"a": 0.9, "b": 0.1}}
    (plot,) = (x for x in score_report("run", {}, scores).sections if isinstance(x, Plot))
    assert plot.name == "domains"


def of_domains(matrix):
    """What a summary says of a matrix: shares with intervals of ± 0.04."""
    share = {name: row.get(name, 0.5) for name, row in matrix.items()}
    subsets = {name: {"accuracy": {"low": x - 0.04, "high": x + 0.04}} for name, x in share.items()}
    return {"domains": matrix, "subsets": subsets}


MATRICES = {
    "square": {"a": {"a": 0.75, "b": 0.25}, "b": {"a": 0.9, "b": 0.1}},
    "more columns": {
        "b": {"a": 0.2, "b": 0.6, "normal": 0.7},
        "c": {"a": 0.05, "c": 0.5, "normal": 0.5},
    },
    "many": {
        f"a long domain {i}": {f"a long domain {j}": (3 * i + j) % 7 / 7 for j in range(9)}
        for i in range(9)
    },
}


@pytest.mark.parametrize("name", MATRICES)
def test_domain_figure(name, tmp_path):
    matrix = MATRICES[name]
    figure = domain_figure({"sum": of_domains(matrix)})
    axes = figure.axes[0]
    rows, columns = (
        [x.get_text() for x in labels]
        for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert rows == columns[: len(rows)] == list(matrix)
    assert set(columns) == {column for row in matrix.values() for column in row} | set(rows)
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            value = matrix[row].get(column)
            star = " ★" if value == max(matrix[row].values()) else ""
            cell, *interval = cells.pop((i, j)).split("\n")
            assert cell == ("–" if value is None else f"{value:.2f}{star}")
            if i == j:
                low, high = (float(end) for end in interval[0].split("–"))
                assert low == pytest.approx(value - 0.04, abs=0.006)
                assert high == pytest.approx(value + 0.04, abs=0.006)
            else:
                assert not interval
    assert not cells
    middles = [
        (f.get_x() + f.get_width() / 2, f.get_y() + f.get_height() / 2) for f in axes.patches
    ]
    np.testing.assert_allclose(middles, [(k, k) for k in range(len(rows))], atol=1e-12)
    image = axes.images[0]
    assert image.get_clim() == (0, 1)
    np.testing.assert_allclose(image.cmap(0.5)[:3], 1, atol=0.01)  # an even match is white
    save_figure(figure, tmp_path, "domains")
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    turned = axes.get_xticklabels()[0].get_rotation() > 0
    assert turned or all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert turned == (name == "many")


def test_domains_by_lift_stand_beside_those_by_the_reward():
    matrices = MATRICES["square"], {"a": {"a": 0.9, "b": 0.1}, "b": {"a": 0.3, "b": 0.7}}
    scores = {n: of_domains(m) for n, m in zip(("sum", "lift"), matrices, strict=True)}
    figure = domain_figure(scores)
    panels = figure.axes[:2]
    for axes, matrix in zip(panels, matrices, strict=True):
        shown = [float(text.get_text().split()[0]) for text in axes.texts]
        assert shown == [value for row in matrix.values() for value in row.values()]
        assert axes.images[0].get_clim() == (0, 1)
    assert ["sum" in panels[0].get_title(), "lift" in panels[1].get_title()] == [True, True]


def test_the_same_domain_figure_is_the_same_file(tmp_path):
    one, two = (
        save_figure(domain_figure({"sum": of_domains(MATRICES["square"])}), tmp_path, name)[
            0
        ].read_bytes()
        for name in ("one", "two")
    )
    assert one == two
