"""YAML as the trainer's configs have it: 1e-3 is a number, on and off are text, and no key may stand twice."""
import re

import yaml


class StudyError(Exception):
    """A study, config or result that cannot be used: which, what is wrong, what to do. Exit code 2."""


class Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2 in place of PyYAML's 1.1."""


Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in (
        ("bool", r"true|false", "tf"),
        ("null", r"null|~|", ["n", "~", ""]),
        ("int", r"[-+]?[0-9]+", "-+0123456789"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789")):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
# PyYAML's own would take 010 as octal.
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def mapping_of(loader, node):
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise StudyError(f"line {key.start_mark.line + 1}: a key must be plain text")
        if key.value in seen:
            raise StudyError(f"line {key.start_mark.line + 1}: {key.value} stands twice")
        seen.add(key.value)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


Loader.add_constructor("tag:yaml.org,2002:map", mapping_of)


def read_yaml(text, source):
    """Returns what `text` holds; `source` is named where it is no YAML."""
    try:
        return yaml.load(text, Loader)
    except StudyError as error:
        raise StudyError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise StudyError(f"{source}: {where}{getattr(error, 'problem', None) or error}") from None


def flat(tree, prefix=""):
    """{section: {key: value}} as {"section.key": value}. Lists are values."""
    out = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
