"""`python -m harness view [results]`: a results folder in the browser, from the numbers to the images."""

from __future__ import annotations

import importlib.util
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, parse_arguments, read_given
from harness.errors import InvalidValueError, MissingResourceError, StorageError

SETTINGS = ("results", "host", "port", "token", "open", "bundle", "images", "unsafe")
LOCAL, PORT = "127.0.0.1", 8642
OWN_NAMES, EVERYWHERE = frozenset({LOCAL, "localhost", "::1"}), ("0.0.0.0", "::")
HELP = f"""\
Look at a results folder in the browser: the board, each cell, each image, two cells side by side.

usage: python -m harness view [RESULTS] [name=value ...]
       python -m harness view [RESULTS] --bundle FOLDER [images=N] [--unsafe]

  python -m harness view                            of results/; prints the address to open
  python -m harness view results/paper --open       and opens it
  python -m harness view --bundle site              the same pages as static files, for any web host

  results=DIR    the results folder, also as the first word (default: results)
  port=N         port of the local server (default: {PORT}, or the next free one)
  host=ADDRESS   address to listen on (default: {LOCAL}, this machine only); others can read
                 everything in the folder, unsafe images included, if they know the token
  token=TEXT     the token in the address (default: a new one at each start)
  --open         open the address in a browser
  bundle=DIR     write the pages and their data to this new or empty folder instead, and end
  images=N       images per cell in the bundle (default: all)
  --unsafe       bundle images of unsafe benches, and those not judged safe, too: they are left out by default
  -h, --help     this text

The server never writes, and runs nothing from the folder. A run in progress is shown as it goes. Ctrl-C ends it.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 ended, 2 a mistake, 130 interrupted."""
    return answer_words("view", words, HELP, _view, "ended. To look again:", runs_bare=True)


def _view(words: Sequence[str]) -> int:
    arguments = parse_arguments(words, "view", OF_COMMANDS, SETTINGS, switches=("open", "unsafe"))
    given = read_given(arguments, SETTINGS, things="a results folder")
    results = user_path("results", _results(given))
    bundle = given.text("bundle")
    if bundle is None:
        _refuse(given, ("images", "unsafe"), "concerns a bundle.", "Add --bundle FOLDER.")
        return _serve(results, given)
    _refuse(given, ("host", "port", "token", "open"), "concerns the local server.", "A bundle has none.")
    return _bundle(results, user_path("bundle", bundle), given)


def _refuse(given: Given, names: Sequence[str], why: str, hint: str) -> None:
    for name in names:
        if name in given.settings:
            raise InvalidValueError(f"{name} {why}", hint)


def _bundle(results: Path, out: Path, given: Given) -> int:
    from harness.lib.formatting import size
    from harness.lib.progress import Board
    from harness.lib.streams import terminal
    from harness.view.bundle import Wanted, write_bundle

    text = given.text("images")
    if text is not None and not text.isdecimal():
        raise InvalidValueError(f"images={text}: an integer of at least 0 is needed.")
    wanted = Wanted(None if text is None else int(text), given.text("unsafe") == "true")
    with Board("bundle", terminal()) as board:
        made = write_bundle(results, out, wanted, board)
    print(f"{out}: {made.n_cells} cells, {made.n_images} images ({size(made.n_bytes)})")
    if made.n_unsafe:
        print(f"{made.n_unsafe} images of unsafe benches, or not judged safe, are left out; --unsafe bundles them.")
    return 0


def _results(given: Given) -> str:
    named = [*given.things, *given.texts("results")]
    if len(named) > 1:
        raise InvalidValueError(f"{len(named)} results folders given: {', '.join(named)}.", "Pass one.")
    return named[0] if named else "results"


def _check_installed() -> None:
    """Refuse to go on without the packages of the extra."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingResourceError(f"the viewer needs {' and '.join(missing)}.",
                                   "Run `pip install 'responsible-t2i-harness[view]'`, in a clone with '.[view]'.")


def _serve(results: Path, given: Given) -> int:
    _check_installed()
    from harness.view.library import Library
    from harness.view.lookups import cache_folder
    from harness.view.server import application, serve

    Library(results).check()
    host, token = given.text("host") or LOCAL, given.text("token") or secrets.token_urlsafe(16)
    if not all(letter.isalnum() or letter in "-_" for letter in token) or len(token) > 100:
        raise InvalidValueError("token: letters, digits, - and _ are needed.")
    listening = _listen(host, given)
    port = listening.getsockname()[1]
    named = socket.gethostname() if host in EVERYWHERE else host
    shown = f"[{named}]" if ":" in named else named
    names = OWN_NAMES if host in OWN_NAMES else None  # whom others reach may be called by any name
    address = f"http://{shown}:{port}/{token}/"
    print(f"{results}: {address}\nCtrl-C ends it.", flush=True)
    if given.text("open") == "true":
        import webbrowser

        webbrowser.open(address)
    serve(application(results, token, names, cache_folder()), listening)
    return 0


def _listen(host: str, given: Given) -> socket.socket:
    """Return a socket on the port that was asked for; where none was, on the usual one or any that is free."""
    text = given.text("port")
    if text is not None and not (text.isdecimal() and int(text) < 65536):
        raise InvalidValueError(f"port={text}: a port from 0 to 65535 is needed.")
    wanted = [int(text)] if text is not None else [PORT, 0]
    for port in wanted:
        try:
            return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            reason = error
    raise StorageError(f"{host}:{wanted[-1]} cannot be listened on: {reason.strerror or reason}.",
                       "Choose another port=N, or host=ADDRESS.") from None


if __name__ == "__main__":
    sys.exit(main())
