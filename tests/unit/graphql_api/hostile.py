"""Operations that an attacker sends: by name, each to be refused for a few milliseconds of CPU."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HOSTILE"]

_LEAF = "fragment z on Run { name }"


def _repeat(count: int, text: Callable[[int], str]) -> str:
    return " ".join(map(text, range(count)))


def _bomb(count: int, body: str, last: str) -> str:
    """Fragments of which each spreads the next several times."""
    chain = _repeat(count, lambda n: f"fragment f{n} on Run {{ {body.replace('NEXT', f'...f{n + 1}')} }}")
    return f"{{ run {{ ...f0 }} }} {chain} fragment f{count} on Run {{ {last} }}"


def _nested(count: int, field: str, leaf: str = "name") -> str:
    return f"{{ {' { '.join([field] * count)} {{ {leaf} {'} ' * (count + 1)}"


_CYCLE = "fields { type { fields { type { fields { type { name } } } } } }"

HOSTILE: dict[str, str] = {
    # fragments that multiply
    "bomb: two spreads": _bomb(30, "a: again { NEXT } b: again { NEXT }", "name"),
    "bomb: two spreads of the same name": _bomb(40, "again { NEXT } again { NEXT }", "name"),
    "bomb: two plain spreads": _bomb(40, "NEXT NEXT", "name"),
    "bomb: ten plain spreads": _bomb(20, "NEXT " * 10, "name"),
    "bomb: inline fragments": _bomb(30, "... on Run { NEXT } ... on Run { NEXT }", "name"),
    "bomb: with directives": _bomb(14, "NEXT @include(if: true) NEXT @skip(if: false)", "name"),
    "bomb: lists": _bomb(8, "runs(first: 100) { edges { node { NEXT } } }", "name"),
    "bomb: 712 bytes": _bomb(11, "again { NEXT } x: again { NEXT }", "name")[:712].rpartition("fragment")[0],
    "bomb: that nobody uses": "{ run { name } } " + _bomb(40, "NEXT NEXT", "name").partition("}")[2].partition("}")[2],
    "bomb: aliases": _bomb(20, _repeat(4, lambda n: f"a{n}: again {{ NEXT }}"), "name"),
    "chain of fragments": _bomb(48, "again { NEXT }", "name"),
    "too many fragments": "{ run { name } } " + _repeat(200, lambda n: f"fragment f{n} on Run {{ name }}"),
    "every fragment spreads every other": "{ run { ...f0 } } "
    + _repeat(30, lambda n: f"fragment f{n} on Run {{ {_repeat(30, lambda m: f'...f{m}')} }}"),
    "fragment spreads itself": "{ run { ...f } } fragment f on Run { again { ...f } }",
    "fragments in a circle": "{ run { ...f } } fragment f on Run { ...g } fragment g on Run { ...f }",
    "circle that nobody uses": "{ run { name } } fragment f on Run { ...g } fragment g on Run { ...f }",
    "circle behind aliases": "{ run { ...f } } fragment f on Run { a: again { ...f } b: again { ...f } }",
    # floods
    "aliases": "{ " + _repeat(400, lambda n: f"a{n}: run {{ name }}") + " }",
    "aliases of a mutation": "mutation { " + _repeat(200, lambda n: f'a{n}: start(name: "x") {{ name }}') + " }",
    "aliases of __typename": "{ " + _repeat(600, lambda n: f"a{n}: __typename") + " }",
    "aliases through a fragment": "{ run { ...f } a: run { ...f } b: run { ...f } } fragment f on Run { "
    + _repeat(20, lambda n: f"a{n}: name")
    + " }",
    "the same field": "{ " + "run { name } " * 300 + "}",
    "the same leaf": "{ run { " + "name " * 1900 + "} }",
    "the same field in levels": "{ run { " + "again { " * 4 + "again { again { name } } " * 70 + "}" * 6,
    "the same field by fragments": "{ run { " + "...z " * 200 + "} } " + _LEAF,
    "fields that are not there": "{ " + _repeat(1900, lambda n: f"nothing{n}") + " }",
    "long names that are not there": "{ " + _repeat(20, lambda n: "x" * 4000 + str(n)) + " }",
    "directives on a field": "{ run { name " + "@include(if: true) " * 200 + "} }",
    "unknown directives": "{ run { name " + "@x " * 900 + "} }",
    "directives everywhere": "{ run { " + "name @skip(if: false) " * 40 + "} }",
    "directives on an operation": "query " + "@x " * 300 + "{ run { name } }",
    "arguments": "{ echo(" + _repeat(500, lambda n: f"a{n}: 1") + ") }",
    "the same argument": "{ echo(" + 'text: "a" ' * 500 + ") }",
    "variables": "query (" + _repeat(400, lambda n: f"$v{n}: Int") + ") { run { name } }",
    "operations": _repeat(300, lambda n: f"query q{n} {{ run {{ name }} }}"),
    "tokens": "{ " + "run { name } " * 2000 + "}",
    "comments": "{ " + "#\n" * 40_000 + "run { name } }",
    "a long text": "{ run { name } } " + " " * 200_000,
    "a long string": '{ echo(text: "' + "x" * 150_000 + '") }',
    "a long number": "{ echo(number: " + "1" * 90_000 + ") }",
    "a list of numbers": "{ runs(matrix: [" + "[1 1 1 1 1 1 1 1] " * 250 + "]) { edges { cursor } } }",
    # depth
    "deep fields": _nested(40, "again").replace("{ again", "{ run { again", 1) + "}",
    "one level too deep": "{ run { " + "again { " * 9 + "name" + " }" * 11,
    "very deep": "{ run { " + "again { " * 190 + "name" + " }" * 192,
    "deeper than the parser goes": "{ run { " + "again { " * 500 + "name" + " }" * 502,
    "deep inline fragments": "{ run { " + "... on Run { " * 150 + "name" + " }" * 152,
    "inline fragments without a type": "{ run { " + "... { " * 180 + "name" + " }" * 182,
    "a deep value": "{ runs(matrix: " + "[" * 190 + "1" + "]" * 190 + ") { edges { cursor } } }",
    "a very deep value": "{ runs(matrix: " + "[" * 900 + "1" + "]" * 900 + ") { edges { cursor } } }",
    "a deep type of a variable": "query ($a: " + "[" * 190 + "Int" + "]" * 190 + ") { run { name } }",
    # lists in lists
    "lists in lists": "{ runs(first: 100) { edges { node { runs(first: 100) { edges { node { runs(first: 100) "
    "{ edges { cursor } } } } } } } } }",
    "a huge page": "{ runs(first: 1000000000) { edges { cursor } } }",
    "a huge last page": "{ runs(last: 2147483647) { edges { cursor } } }",
    "a huge page by default": "query ($n: Int = 1000000) { runs(first: $n) { edges { cursor } } }",
    "pages of unsaid length": "{ runs { edges { node { runs { edges { node { runs { edges { cursor } } } } } } } } }",
    "lists without pages": "{ run { stages { tags { tags { tags { tags { name } } } } } } }",
    "many lists side by side": "{ run { "
    + _repeat(30, lambda n: f"a{n}: runs(first: 100) {{ edges {{ node {{ stages {{ name }} }} }} }}")
    + " } }",
    # introspection
    "introspection in circles": f"{{ __schema {{ types {{ {_CYCLE} }} }} }}",
    "introspection of one type in circles": f'{{ __type(name: "Run") {{ {_CYCLE} }} }}',
    "introspection in circles by fragments": "{ __schema { types { ...f } } } fragment f on __Type "
    "{ fields { type { ...g } } } fragment g on __Type { fields { type { ...h } } } "
    "fragment h on __Type { fields { name } }",
    "introspection of interfaces in circles": "{ __schema { types { possibleTypes { interfaces { possibleTypes "
    "{ name } } } } } }",
    "introspection too deep": "{ __schema { types { " + "ofType { " * 25 + "name" + " }" * 28,
    "introspection many times": "{ "
    + _repeat(40, lambda n: f"a{n}: __schema {{ types {{ fields {{ args {{ name }} }} }} }}")
    + " }",
    "introspection bomb": "{ __schema { types { ...f0 } } } "
    + _repeat(30, lambda n: f"fragment f{n} on __Type {{ ofType {{ ...f{n + 1} }} x: ofType {{ ...f{n + 1} }} }}")
    + " fragment f30 on __Type { name }",
}  # fmt: skip
