"""Files without a definition: their content, and the one line a user gets."""

from __future__ import annotations

from typing import NamedTuple

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A billion values in ten lines."""

MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


JSON_STAGES = '[{"id": "a", "type": "input", "config": {"source": "api"}}]'


class Case(NamedTuple):
    """The file's name, its content (None: the file is absent), and the line without the name in front."""

    name: str
    content: str | bytes | None
    line: str


CASES = [
    Case("empty.yaml", "", "the file is empty"),
    Case("blank.json", " \n", "the file is empty"),
    Case("only-a-comment.yaml", "# to do\n", "a pipeline must be a mapping with name and stages, not null"),
    Case("text.yaml", "just words", 'a pipeline must be a mapping with name and stages, not "just words"'),
    Case("latin.yaml", "name: a\ndescription: Caf\u00e9\n".encode("latin-1"), "line 2: is not UTF-8 text (byte 0xe9)"),
    Case("utf16.yaml", "name: a\n".encode("utf-16"), "line 1: is not UTF-8 text (byte 0xff); it looks like UTF-16"),
    Case("binary.yaml", b"PK\x03\x04\x00\x00", "line 1: the character U+0003 is not allowed"),
    Case("indent.yaml", "name: x\nstages:\n  - id: a\n   type: input\n",
         "line 4, column 4: did not find expected '-' indicator"),
    Case("tab.yaml", "name: x\nstages:\n\t- id: a\n", "line 3, column 1: indent with spaces, not tabs"),
    Case("quote.yaml", 'name: "x\nstages: []\n', "line 1, column 7: the quote is not closed"),
    Case("brace.yaml", "name: x\nconfig: {a: 1\n", "line 3, column 1: did not find expected ',' or '}'"),
    Case("glob.yaml", "name: x\npath: *.csv\n",
         "line 2, column 8: text that begins with * must be in quotes (without them it refers to an anchor)"),
    Case("alias.yaml", "name: x\npath: *all\n",
         "line 2, column 7: text that begins with * must be in quotes (without them it refers to an anchor)"),
    Case("at.yaml", "name: @home\n", "line 1, column 7: text that begins with @ must be in quotes"),
    Case("colon.yaml", "name: a: b\n",
         "line 1, column 8: a mapping cannot begin here: wrong indentation, or text with ': ' that must be in quotes"),
    Case("two.yaml", "name: x\n---\nname: y\n",
         "line 2, column 1: a second document begins here: a file must contain exactly one pipeline"),
    Case("twice.yaml", "name: x\nstages:\n  - id: a\n    id: b\n", "line 4, column 5: the key 'id' is given twice"),
    Case("key.yaml", "? [a, b]\n: 1\n", "line 1, column 3: a key must be text, not a list"),
    Case("object.yaml", "name: !!python/object/apply:os.system ['touch pwned']\n",
         'line 1, column 7: the tag "!!python/object/apply:os.system" is not supported: '
         "a definition contains plain values only"),
    Case("tag.yaml", "name: !env HOME\n",
         'line 1, column 7: the tag "!env" is not supported: a definition contains plain values only'),
    Case("number.yaml", "name: !!int abc\n", 'line 1, column 7: "abc" cannot be a whole number'),
    Case("digits.yaml", f"name: {'9' * 5000}\n", f'line 1, column 7: "{"9" * 56}... cannot be a whole number'),
    Case("laughs.yaml", LAUGHS, "line 6, column 36: its aliases expand to more than 1,000,000 values"),
    Case("merges.yaml", MERGES, "line 7, column 17: its aliases expand to more than 1,000,000 values"),
    Case("within-itself.yaml", "a: &a [*a]\n", "line 1, column 8: *a is inside the value it refers to"),
    Case("deep.yaml", "[" * 200_000, "line 1, column 101: is nested more than 100 levels deep"),
    Case("deep-lists.yaml", "- " * 101 + "x", "line 1, column 201: is nested more than 100 levels deep"),
    Case("nan.yaml", "name: x\nvariables: {low: .nan}\nstages: [{id: a, type: input, config: {source: api}}]\n",
         "variables.low: is NaN, which JSON cannot represent; use null or text"),
    Case("5-MB.yaml", f"name: {'x' * 5_000_000}\nstages: [{{id: a, type: input, config: {{source: api}}}}]\n",
         "name: must have at most 255 characters, not 5000000"),
    Case("comma.json", '{"name": "x"\n "stages": []}', "line 2, column 2: expecting ',' delimiter"),
    Case("cut.json", '{"name": "x"', "line 1, column 13: expecting ',' delimiter"),
    Case("single-quotes.json", "{'name': 'x'}", "line 1, column 2: expecting property name enclosed in double quotes"),
    Case("twice.json", '{"name": "x", "stages": [], "name": "y"}', "the key 'name' is given twice"),
    Case("deep.json", "[" * 200_000, "is nested too deeply"),
    Case("nan.json", f'{{"name": "x", "timeout": NaN, "stages": {JSON_STAGES}}}',
         "timeout: must be at most 31536000, not NaN"),
    Case("huge-number.json", f'{{"name": {"9" * 5000}}}',
         "exceeds the limit (4300 digits) for integer string conversion: "
         "value has 5000 digits"),
]  # fmt: skip
