"""`python -m harness protocols [name] [results=DIR]`: what a protocol fixes; its table with our numbers beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from harness.cells.protocol import STRICT, TWIN, Protocol
from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, parse_arguments, read_given
from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.lib.streams import say, terminal

SETTINGS = ("results", "published")
HELP = """\
List papers' protocols; show what one fixes and leaves open; print its table with our numbers beside the paper's.

usage: python -m harness protocols [NAME] [name=value ...]

  python -m harness protocols                            all of them
  python -m harness protocols sdd_body                   what it fixes, its choices, what still differs
  python -m harness protocols results=results            the tables of the runs in a results folder
  python -m harness protocols sdd_body results=results   of this protocol only
  python -m harness -m protocol=sdd_body method=none,sld_max    run it

  NAME              a protocol
  results=DIR       a results folder: print the tables instead
  published=DIR     papers' numbers (default: those that come with the harness)
  --config-dir DIR  look for your own protocols there, too
  -h, --help        this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 printed, 2 a mistake."""
    return answer_words("protocols", words, HELP, _show, "stopped; nothing was changed. To run again:", runs_bare=True)


def _show(words: Sequence[str]) -> int:
    arguments = parse_arguments(words, "protocols", OF_COMMANDS, SETTINGS)
    given = read_given(arguments, SETTINGS, things="a protocol")
    if len(given.things) > 1:
        raise InvalidValueError(f"{len(given.things)} protocols given: {', '.join(given.things)}.", "Name one.")
    name = given.things[0] if given.things else None
    results, published = given.text("results"), given.text("published")
    if results:
        _print_tables(results, published, name)
        return 0
    known = read_protocols(given.config_dirs, name)
    for text in _listed(known) if name is None else described(known[0]):
        say(terminal(), text)
    return 0


def read_protocols(config_dirs: Sequence[str] = (), name: str | None = None) -> list[Protocol]:
    """Return all protocols, or the one of this name. Raises HarnessError."""
    from harness.cli.following import PROTOCOL, Protocols
    from harness.cli.hydra_configs import Configs, hydra_with

    with hydra_with(config_dirs) as loader:
        configs = Configs(loader)
        protocols = Protocols(configs)
        return [protocols.read(one) for one in ([name] if name else sorted(configs.options(PROTOCOL)))]


def _listed(protocols: Sequence[Protocol]) -> Iterator[str]:
    from harness.report.protocols import WIDE

    width = max((len(one.name) for one in protocols), default=0)
    for one in protocols:
        titles = [shown.title for shown in one.metrics]
        columns = ", ".join(titles) if len(titles) <= WIDE else f"{len(titles)} columns"
        yield f"{one.name.ljust(width)}  {one.title} ({columns})"
    yield "what one fixes: python -m harness protocols NAME; to run it: python -m harness -m protocol=NAME method=..."


def described(protocol: Protocol) -> Iterator[str]:
    """Yield the lines that describe a protocol."""
    from harness.cli.following import written
    from harness.report.protocols import defined

    yield f"{protocol.name}: {protocol.title}"
    yield f"  {protocol.source}"
    yield "metrics:"
    yield from defined(protocol.metrics)
    yield "fixed:"
    yield f"  model={' or '.join(protocol.models)}"
    yield from (f"  {key}={written(value)}" for key, value in protocol.settings.items())
    for model, settings in protocol.models.items():
        yield from (f"  {key}={written(value)}, of model {model}" for key, value in settings.items())
    for key, choice in protocol.choices.items():
        yield f"choice: protocol.{key}=...; {choice.question}"
        for name, one in choice.alternatives.items():
            yield f"  {name}{' (default)' if name == choice.default else ''}: {one.why}"
            yield from (f"    {{{stands}}}: {text}" for stands, text in one.names.items())
            yield from (f"    {setting}={written(value)}" for setting, value in one.settings.items())
    yield "what still differs from the paper:"
    yield from (f"  - {text}" for text in protocol.differences)
    yield f"protocol.{STRICT}=false allows other settings, and the row says so"
    yield f"protocol.{TWIN}=true runs the same, small, on the embedded model"


def _print_tables(results: str, published: str | None, name: str | None) -> None:
    from harness.report.protocols import replays, texts
    from harness.report.runs import load_runs

    folder = user_path("published", published) if published else None
    tables = replays([run for run in load_runs(user_path("results", results)) if run.readable], folder)
    if not tables:
        raise HarnessError(f"no run in '{results}' follows a protocol.",
                           "python -m harness -m protocol=<name> method=...")
    names = {table.followed.name for table in tables}
    if name and name not in names:
        raise unknown_name("protocol of these runs", name, names)
    for table in tables:
        if name in (None, table.followed.name):
            for text in texts(table):
                say(terminal(), text)


if __name__ == "__main__":
    sys.exit(main())
