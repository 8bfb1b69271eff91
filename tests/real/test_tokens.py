"""`streamgauge tokens` against tokenizers that nobody here wrote: gpt-tokenizer (npm), tiktoken and tokenizers (PyPI)."""

import json
import random
import string
import subprocess
from pathlib import Path

import tiktoken
import tokenizers

import programs

OPENAI = ("cl100k_base", "o200k_base")
STRINGS = 10_000
WORDS = (
    "the and of to in is you that it for on are as with his they at be this have from or one had by word but not what "
    "Donaudampfschifffahrtsgesellschaft naïve façade Ελληνικά Привет наука שלום עולם مرحبا بالعالم नमस्ते ภาษาไทย "
    "中文分词 日本語テスト 한국어 https://example.org/a?b=c#d I'll we're don't CAN'T it'ſ 1234567 3.14159 0xDEADBEEF "
    "<|endoftext|> <|im_start|> <start_of_turn> <bos>"
).split()
CODE = "fn main() {\n    println!(\"{}\", 1 + 2);\n}\n|def f(x):\n\treturn x ** 2  # no\n|for (i = 0; i < n; i++) { a[i] |= 1 << i; }|{\"a\": [1, 2, {\"b\": null}]}|SELECT * FROM t WHERE a <> 'b';\r\n".split("|")
RANGES = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
    (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF),
)  # fmt: skip
EMOJI = "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇨🇭 ☕️ 🌊".split()
BLANKS = (" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", " \n ", "    ")


def strings() -> list[str]:
    rng = random.Random(20)

    def text() -> str:
        kind = rng.randrange(6)
        length = rng.choice((1, 3, 10, 40, 150))
        if kind == 0:
            return rng.choice(BLANKS).join(rng.choice(WORDS) for _ in range(length))
        if kind == 1:
            return "".join(rng.choice(CODE) for _ in range(1 + length // 10))
        if kind == 2:
            first, last = rng.choice(RANGES)
            return "".join(chr(rng.randint(first, last)) for _ in range(length))
        if kind == 3:
            return "".join(rng.choice((*EMOJI, *BLANKS, *WORDS)) for _ in range(length))
        if kind == 4:
            return rng.choice(string.printable) * (length * rng.randint(1, 20))
        return "".join(rng.choice(string.printable) for _ in range(length))

    return [text() for _ in range(STRINGS)]


def ours(texts: list[str], *options: str) -> list[dict[str, dict]]:
    """What the command says of each text: its counts by encoding."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    command = [programs.streamgauge(), "tokens", "--json-lines", *options]
    out = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    return [{count["encoding"]: count for count in json.loads(line)["counts"]} for line in out.splitlines()]


def same(texts: list[str], counted: list[dict], references: dict[str, list[int]]) -> None:
    assert len(counted) == len(texts)
    for encoding, expected in references.items():
        for text, count, reference in zip(texts, counted, expected, strict=True):
            assert count[encoding]["exact"], text[:60]
            assert count[encoding]["tokens"] == reference, (encoding, text[:60])


def test_openais_encodings_agree_with_gpt_tokenizer(node_modules):
    texts = strings()
    counted = ours(texts, *(f"--encoding={name}" for name in OPENAI))
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    # A module is looked for beside the script that asks for it.
    script = node_modules.parent / "token_counts.mjs"
    script.write_bytes(Path(__file__).with_name("token_counts.mjs").read_bytes())
    out = subprocess.run(["node", script], input=lines, capture_output=True, text=True, check=True).stdout
    reference = [json.loads(line) for line in out.splitlines()]
    same(texts, counted, {name: [line[name] for line in reference] for name in OPENAI})


def test_runs_of_a_megabyte_agree_with_tiktoken(tiktoken_cache):
    texts = [char * (1_000_000 // len(char.encode())) for char in "aZ9=-_水é🌊"] + [" a" * 500_000, "ab" * 500_000]
    counted = ours(texts, *(f"--encoding={name}" for name in OPENAI))
    same(texts, counted, {name: [len(tiktoken.get_encoding(name).encode_ordinary(text)) for text in texts] for name in OPENAI})


def test_what_a_guard_makes_an_estimate_says_so():
    blanks, long = " " * 1_000_000 + "x", "Learning AI is fun! " * 200_000
    for counted in ours([blanks, long], "--encoding=o200k_base"):
        assert not counted["o200k_base"]["exact"]


def test_a_models_own_file_agrees_with_tokenizers(gemma_tokenizer):
    texts = strings() + ["a" * 200_000, "水" * 60_000]
    reference = tokenizers.Tokenizer.from_file(str(gemma_tokenizer))
    reference.encode_special_tokens = True
    expected = [len(each.ids) for each in reference.encode_batch(texts, add_special_tokens=False)]
    same(texts, ours(texts, f"--tokenizer={gemma_tokenizer}"), {str(gemma_tokenizer): expected})
