"""Reads YAML files of entries, and reports every invalid entry with its place in the file."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeAlias

import yaml

from vsyncd.config import ConfigError

Report: TypeAlias = Callable[[str], None]
_MAP_TAG: Final = yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that occurs twice: YAML would use the last one without a message."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            mark = node.value[index][0].start_mark
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} occurs twice", mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(_MAP_TAG, _construct_mapping)


class EntriesFile:
    """The entries of a file that has one key, `name`, with a list of mappings. `problems` collects what is wrong."""

    def __init__(self, setting: str, data: bytes, name: str) -> None:
        self._setting = setting
        self._name = name
        self.problems: list[str] = []
        self._entries = self._load(data)

    def entries(
        self, required: AbstractSet[str], optional: AbstractSet[str] = frozenset()
    ) -> Iterator[tuple[Mapping[str, Any], Report]]:
        """Yields each entry that has the required keys and no unknown one, and a function that reports a problem."""
        for index, entry in enumerate(self._entries):
            report = self._reporter(f"{self._name}[{index}]")
            if not isinstance(entry, dict):
                report("must be a mapping")
                continue
            unknown, missing = entry.keys() - required - optional, required - entry.keys()
            for key in sorted(map(str, unknown)):
                report(f"unknown key {key!r}")
            for key in sorted(missing):
                report(f"{key} is missing")
            if not missing:
                yield entry, report

    def raise_problems(self) -> None:
        """Raises ConfigError if there are problems."""
        if self.problems:
            raise ConfigError(*self.problems)

    def _reporter(self, place: str) -> Report:
        return lambda problem: self.problems.append(f"{self._setting}: {place}: {problem}")

    def _load(self, data: bytes) -> list[Any]:
        try:
            document = yaml.load(data, _Loader)  # noqa: S506  a subclass of SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.problems.append(f"{self._setting}: invalid YAML: {_one_line(error)}")
            return []
        if not isinstance(document, dict) or document.keys() != {self._name}:
            self.problems.append(f"{self._setting}: must have the key {self._name}, and no other")
            return []
        entries = document[self._name]
        if not isinstance(entries, list):
            self.problems.append(f"{self._setting}: {self._name}: must be a list")
            return []
        return entries


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())[:200]
