"""The parser of flags and configs, which reports what it does not accept in one sentence."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from linreg_pl.data.base import DataModule
from linreg_pl.errors import InputError, nearest, suggestion
from linreg_pl.files import shipped_names
from linreg_pl.models import LinearModel
from linreg_pl.tables.reading import Reading

GROUPS: dict[str, type] = {"model": LinearModel, "data": DataModule}
KINDS = {
    "PositiveInt": "a positive whole number",
    "float": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text, in quotes where it looks like a number",
    "Sequence": "a list, as in '[a, b]'",
    "list": "a list, as in '[a, b]'",
    "dict": "names with values, as in '{a: b}'",
}
HELP = "see python train.py fit --help"


class RefusedError(BaseException):
    """Carries the sentence on an argument out of the parser, which catches other exceptions."""


class Parser(LightningArgumentParser):
    """Parser whose errors are one line instead of the whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `RefusedError` instead of printing the usage."""
        text = " ".join(str(message).split())
        for pattern, sentence in SENTENCES.items():
            if found := re.match(pattern, text):
                text = sentence(self, *found.groups())
                break
        raise RefusedError(text) from ex

    def format_help(self, *arguments: Any) -> str:
        """Add the flags of the models and of the data to the help of a command."""
        groups = [action.dest for action in self._actions if action.dest in GROUPS]
        return "\n".join([super().format_help(*arguments), *map(_class_flags, groups)])

    @property
    def flags(self) -> list[str]:
        """All flags of all commands, for suggestions."""
        commands = (getattr(action, "_name_parser_map", {}) for action in self._actions)
        parsers = [self, *(parser for found in commands for parser in found.values())]
        own = {flag for parser in parsers for flag in parser._option_string_actions}
        return sorted(own | {f"--{group}.{name}" for group in GROUPS for name in owners(group)})


class _Loader(yaml.SafeLoader):
    """Builds plain values only, and refuses duplicate keys and zero bytes."""

    def construct_scalar(self, node: Any) -> Any:
        if "\0" in node.value:
            raise yaml.constructor.ConstructorError(
                problem="a text with a zero byte, which nothing can be named by", problem_mark=node.start_mark
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for first, key in combinations(keys, 2):
            if first.value == key.value:
                problem = f"{key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def config_paths() -> list[str]:
    """Return the files given by ``--config``."""
    words = sys.argv[1:]
    apart = [value for flag, value in pairwise(words) if flag in ("--config", "-c")]
    return apart + [word.removeprefix("--config=") for word in words if word.startswith("--config=")]


def read_config(path: str) -> dict[str, Any]:
    """Read a config as plain values; refuse YAML tags that would build anything else, and name the line."""
    if not Path(path).is_file():
        reason = "is a folder" if Path(path).is_dir() else "no such file"
        hint = suggestion(path.removeprefix("configs/").removesuffix(".yaml"), list(shipped_names()))
        raise InputError(f"{path or repr('')}: {reason} (--config){hint}")
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        tabs = "; indent with spaces, not tabs" if "\\t" in str(error) else ""
        raise InputError(f"{path}: {line}{error.problem or error.context}{tabs}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror} (--config)") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is not YAML in UTF-8 (--config)") from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise InputError(f"{path}: must hold flags, as in 'trainer: {{max_epochs: 3}}' (--config)")
    if "config" in config:
        raise InputError(f"{path}: config: a config cannot name another; give --config several times")
    for group in ("trainer", "checkpoint"):
        if not isinstance(config.get(group, {}), dict):
            raise InputError(f"{path}: {group}: must hold flags, as in 'trainer: {{max_epochs: 3}}'")
    return config


def concrete(kind: type) -> list[type]:
    """Return the concrete subclasses of a class, and itself, that the same package offers."""
    package = sys.modules.get(kind.__module__.rpartition(".")[0])
    return [below for below in _below(kind) if not inspect.isabstract(below) and hasattr(package, below.__name__)]


def _below(kind: type) -> Iterator[type]:
    yield kind
    children: list[type] = kind.__subclasses__()
    for child in children:
        yield from _below(child)


def arguments_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a model or data module, by their names."""
    found = dict(inspect.signature(kind).parameters)
    if found.pop("reading", None) is not None:  # keyword arguments of `Table`
        found |= inspect.signature(Reading).parameters
    return found


def owners(group: str) -> dict[str, list[str]]:
    """Return the arguments of all models, or of all data modules, with the classes that accept them."""
    taken: dict[str, list[str]] = {}
    for kind in concrete(GROUPS[group]) if group in GROUPS else ():
        for name in arguments_of(kind):
            taken.setdefault(name, []).append(kind.__name__)
    taken.pop("num_features", None)  # comes from the data
    return taken


def _class_flags(group: str) -> str:
    """Describe the flags of all models, or of all data modules, with the classes that accept them."""
    kinds = {kind.__name__: kind for kind in concrete(GROUPS[group])}
    lines = [f"--{group} NAME: {', '.join(kinds)}; their flags, of which --{group}.help NAME tells all:"]
    for name, accepting in owners(group).items():
        text = f"{inspect.getdoc(kinds[accepting[0]])}\n{inspect.getdoc(Reading)}"
        found = re.search(rf"(?m)^ +{name}: (.*(?:\n {{6,}}.*)*)", text)
        about = " ".join(found[1].split()) if found else ""
        defaults = dict.fromkeys(arguments_of(kinds[kind])[name].default for kind in accepting)
        usual = "must be given" if inspect.Parameter.empty in defaults else f"default {' or '.join(map(str, defaults))}"
        whose = "" if len(accepting) == len(kinds) else f"; {', '.join(accepting)}"
        flag = f"  --{group}.{name}"
        lines.append(fill(f"{flag:22}  {about} ({usual}{whose})", 100, subsequent_indent=" " * 24))
    return "\n".join(lines) + "\n"


def _given() -> Iterator[tuple[str, str, str]]:
    """Yield the place, the dotted name and the value of each given argument; later ones override earlier ones."""
    for path in config_paths():
        for name, value in flat(read_config(path)):
            yield f"{path}: {name}", name, "" if isinstance(value, (dict, list)) else str(value)
    for word, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            yield flag, flag.removeprefix("--"), value if equals else following


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the groups and values of a config, by the flags that set them."""
    for key, value in config.items():
        name = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".removeprefix(".")
        yield name, value
        if isinstance(value, dict):
            yield from flat(value, name)


def _where(key: str, value: str = "") -> tuple[str, str, str]:
    """Return where an argument was given, its full name and value; the parser reports only the end of the name.

    Of a file, which the parser reads, the value is its path and not its content.
    """
    found = [given for given in _given() if f".{given[1]}".endswith(f".{key}")]
    exact = [given for given in found if given[2] == value]
    where, name, given = (exact or found or [(key, key, "")])[-1]
    return where, name, given if len(given) < 4096 and Path(given).is_file() else value


def _unknown_flag(parser: Parser, flag: str, rest: str) -> str:
    if not flag.startswith("-"):
        return f"{flag or repr('')}{rest}: flags begin with --; {HELP}"
    near = nearest(flag.partition("=")[0], parser.flags)
    return f"{flag}{rest}: there is no such flag; {f'did you mean {near}?' if near else HELP}"


def _unknown_key(parser: Parser, key: str) -> str:
    where, *_ = _where(key)
    near = nearest(key, [flag.removeprefix("--") for flag in parser.flags])
    return f"{where}: there is no such argument; {f'did you mean {near}?' if near else HELP}"


def _unknown_argument(parser: Parser, key: str) -> str:
    where, name, _ = _where(key)
    group, _, inner = name.partition(".")
    taken = owners(group)
    if inner in taken:
        return f"{where}: only {', '.join(taken[inner])} can take it"
    near, dashes = nearest(inner, taken), "--" if where.startswith("--") else ""
    return f"{where}: there is no such argument; {f'did you mean {dashes}{group}.{near}?' if near else HELP}"


def _wrong_value(parser: Parser, key: str, reasons: str, value: str) -> str:
    where, name, value = _where(key, value)
    if same := re.search(r"full class path to avoid ambiguity: ([\w., ]+\w)", reasons):
        return f"{where} {value}: several classes have this name; give one in full: {same[1].replace(', ', ' or ')}"
    for base in re.findall(r"((?:linreg_pl|lightning|torch)\.[\w.]+)['\]]", reasons):
        module, _, kind = base.rpartition(".")
        if isinstance(wanted := getattr(importlib.import_module(module), kind, None), type):
            given = re.search(r"'class_path': '?([^',}]*)", value)
            return _unknown_class(where, given[1] if given else value, wanted, name in GROUPS)
    kinds = [
        KINDS[kind]
        for kind in re.findall(r"(?:Expected an? <class '(?:[\w.]*\.)?|Not of type )(\w+)", reasons)
        if kind in KINDS
    ]
    choices = re.findall(r"Expected an? typing\.Literal\[(.*?)\]", reasons)
    if choices:
        listed = ", ".join(choices).replace("'", "")
        kinds.append(f"one of {listed}" if "," in listed else listed)
    return f"{where} {value}: {'must be ' + ' or '.join(dict.fromkeys(kinds)) if kinds else 'is not accepted; ' + HELP}"


def _unknown_class(where: str, name: str, wanted: type, ours: bool) -> str:
    module = name.rpartition(".")[0]
    try:
        importlib.import_module(module or __name__)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):  # but one that it imports
            return f"{where} {name}: {module} cannot be imported: {error}"
    except Exception as error:
        return f"{where} {name}: {module} cannot be imported: {type(error).__name__}: {error}"
    names = [kind.__name__ for kind in concrete(wanted)]
    near = nearest(name, names)
    mend = f"choose one of {', '.join(names)}" if ours else "give its name, or its full import path"
    mend = f"did you mean {near}?" if near else mend
    return f"{where} {name}: there is no such {wanted.__name__}; {mend}"


def _needs_value(parser: Parser, flag: str) -> str:
    words = sys.argv[1:]
    bare = [word for word, following in zip(words, [*words[1:], "-"], strict=True) if following.startswith("-")]
    name = flag.rpartition("/")[2]
    flag = next((word for word in bare if word.startswith(name)), name)
    return f"{flag}: needs a value; write a negative one as {flag}=-1"


def _missing(parser: Parser, names: str) -> str:
    keys = [name.removeprefix("fit.") for name in names.split(", ")]
    flags = {name: f"--{group}.{name}" for group in GROUPS for name in owners(group)}
    flags |= {group: f"--{group}" for group in GROUPS}
    mend = ", or a --config such as configs/scratch.yaml" if keys[0] in GROUPS else ""
    return f"{' and '.join(flags.get(key, key) for key in keys)}: must be given{mend}"


SENTENCES: dict[str, Any] = {
    r"unrecognized arguments: ?(\S*)(.*)": _unknown_flag,
    r"Subcommand '\w+' does not accept option '(.+)'": _unknown_key,
    r"Option '(.+)' is not accepted": _unknown_argument,
    r"Parser key \"(model|data)\".*NestedArg\(key='(.+?)', val='(.*?)'\)": lambda _, group, key, value: (
        f"--{group}.{key} {value}: give --{group} NAME first"
    ),
    r"Parser key \"(.+?)\": (.*)(?:Got value|Given value): ?(.*)": _wrong_value,
    r"argument (\S+): expected one argument": _needs_value,
    r"the following arguments are required: (.*)": _missing,
    r"expected \"subcommand\"": lambda _: (
        "name a command first, as in python train.py fit --config configs/scratch.yaml"
    ),
}
