"""Values are set in JSON, YAML, TOML and .env files without a change of anything else."""

import json
import tomllib

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.commands.tools.formats import CannotEdit, set_values
from gateway.commands.tools.settings import Named, Values

JSON_WITH_COMMENTS = """// mine
{
    "theme": "dark", // as ever
    /* servers */
    "env": { "A": "1" },
    "list": [1, 2,],
}
"""
YAML = """# mine
name: Local
models:
  # the first
  - name: other
    model: x   # small
    roles: [chat]

# the end
rules: []
"""
TOML = """# mine
model = "o3"  # for now

[model_providers.other]
name = "Other"   # kept

# before the last
[features]
a = true
"""
ENV = "# mine\nexport OTHER='1'\nKEY=old\n"


@pytest.mark.parametrize(
    ("form", "text", "values", "expected"),
    [
        (
            "json",
            JSON_WITH_COMMENTS,
            {("env", "B"): "2", ("theme",): "light", ("new", "deep"): [1]},
            JSON_WITH_COMMENTS.replace('"dark"', '"light"')
            .replace('{ "A": "1" }', '{ "A": "1",\n        "B": "2" }')
            .replace(
                '"list": [1, 2,],', '"list": [1, 2,],\n    "new": {\n        "deep": [\n            1\n        ]\n    }'
            ),
        ),
        ("json", "{}", {("a",): 1}, '{\n  "a": 1\n}'),
        ("json", "", {("a", "b"): 1}, '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("json", '{"a":1}', {("b",): "x"}, '{"a":1,\n  "b": "x"}'),
        (
            "json",
            '{"list": [{"id": "x", "n": 1}]}',
            {("list", Named("id", "x"), "n"): 2, ("list", Named("id", "y")): {"id": "y"}},
            '{"list": [{"id": "x", "n": 2},\n    {\n      "id": "y"\n    }]}',
        ),
        (
            "yaml",
            YAML,
            {("models", Named("name", "mine")): {"name": "mine", "model": "y"}, ("name",): "Mine"},
            YAML.replace("Local", "Mine").replace("roles: [chat]\n", "roles: [chat]\n  - name: mine\n    model: y\n"),
        ),
        (
            "yaml",
            YAML,
            {("models", Named("name", "other")): {"name": "other", "model": "z"}},
            YAML.replace("model: x   # small\n    roles: [chat]", "model: z"),
        ),
        ("yaml", "", {("a",): "b"}, "a: b\n"),
        ("yaml", "# only a comment", {("a",): "b"}, "# only a comment\na: b\n"),
        ("yaml", "models:\n", {("models", Named("name", "x")): {"name": "x"}}, "models:\n- name: x\n"),
        ("yaml", "- a: 1\n", {(Named("a", "2"),): {"a": "2"}}, "- a: 1\n- a: '2'\n"),
        (
            "toml",
            TOML,
            {("model",): "gpt-5.1", ("model_provider",): "mine", ("model_providers", "mine"): {"name": "Mine"}},
            TOML.replace('model = "o3"  # for now\n', 'model = "gpt-5.1"\nmodel_provider = "mine"\n')
            + '\n[model_providers.mine]\nname = "Mine"\n',
        ),
        (
            "toml",
            TOML,
            {("model_providers", "other"): {"auth": {"command": "cat", "args": ["a b"]}}},
            TOML.replace('name = "Other"   # kept', 'auth = { command = "cat", args = ["a b"] }'),
        ),
        ("toml", "", {("a",): True}, "a = true\n"),
        ("env", ENV, {("KEY",): "new", ("MORE",): "x"}, "# mine\nexport OTHER='1'\nKEY=new\nMORE=x\n"),
        ("env", "", {("KEY",): "new"}, "KEY=new\n"),
    ],
)
def test_values_are_set_and_nothing_else(form: str, text: str, values: Values, expected: str) -> None:
    assert set_values(form, text, values) == expected
    assert set_values(form, expected, values) == expected


@pytest.mark.parametrize(
    ("form", "text", "values"),
    [
        ("json", "{", {("a",): 1}),
        ("json", "[]", {("a",): 1}),
        ("json", '{"a": 1}', {("a", "b"): 1}),
        ("json", "{'a': 1}", {("a",): 1}),
        ("yaml", "a: [", {("a",): 1}),
        ("yaml", "{a: 1}", {("b",): 1}),
        ("yaml", "a: {b: 1}", {("a", "c"): 1}),
        ("yaml", "a: 1\n---\nb: 1", {("a",): 1}),
        ("toml", "a = ", {("a",): 1}),
        ("toml", 'a = """\nb = 1\n"""\n', {("a",): "x"}),
        ("toml", "model_providers = { mine = { name = 'x' } }\n", {("model_providers", "mine"): {"name": "y"}}),
        ("toml", "[a]\nb.c = 1\n[a.b.d]\n", {("a", "b"): {"e": 1}}),
    ],
)
def test_what_could_go_wrong_is_left_alone(form, text, values):
    with pytest.raises(CannotEdit):
        set_values(form, text, values)


NAMES = st.text("abc-_. /é\"'#:", min_size=1, max_size=4)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


@given(
    st.dictionaries(NAMES, TREES, max_size=4), NAMES, NAMES, st.text(max_size=8), st.sampled_from([None, 1, 2, "\t"])
)
def test_any_json_keeps_what_it_has(tree, outer, inner, value, indent):
    text = json.dumps(tree, indent=indent)
    found = tree.get(outer)
    path = (outer, inner) if isinstance(found, dict | None) else (outer,)
    expected = {**tree, outer: {**(found or {}), inner: value} if len(path) == 2 else value}
    if found is None and outer in tree:
        return  # a null is no place for more
    assert json.loads(set_values("json", text, {path: value})) == expected


@given(st.dictionaries(st.sampled_from("abcd"), TREES, max_size=4), st.sampled_from("abcd"), st.text(max_size=8))
@example({"a": ""}, "b", "\x85")
@example({"a": "\u2028x"}, "a", "x\u2029")
@example({"a": "", "b": "\x85"}, "a", "")
def test_any_yaml_keeps_what_it_has_or_is_left_alone(tree, name, value):
    text = yaml.safe_dump(tree, allow_unicode=True)
    kept = yaml.safe_load(text)  # PyYAML writes U+0085 as it is, and reads a space: what the file says is what counts
    try:
        made = set_values("yaml", text, {(name,): value})
    except CannotEdit:
        return
    assert yaml.safe_load(made) == {**kept, name: value}


@given(st.lists(st.sampled_from(TOML.splitlines(keepends=True)), max_size=8), st.text(max_size=8))
def test_any_toml_keeps_what_it_has_or_is_left_alone(lines, value):
    text = "".join(lines)
    try:
        made = set_values("toml", text, {("model",): value, ("model_providers", "mine"): {"name": value}})
    except CannotEdit:
        return
    before, after = tomllib.loads(text), tomllib.loads(made)
    assert after.pop("model") == value
    before.pop("model", None)
    assert after["model_providers"].pop("mine") == {"name": value}
    assert after["model_providers"] == before.pop("model_providers", {})
    assert {name: each for name, each in after.items() if name != "model_providers"} == before
