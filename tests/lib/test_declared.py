"""Settings are what their annotations say: of every class that declares some, and of a newcomer's method."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen

import harness.evaluators
import methods
from harness.__main__ import main
from harness.cells.settings import OverviewColumn
from harness.declared import Declared, declared
from harness.errors import HarnessError, InvalidValueError, UnknownNameError
from harness.method import Method
from harness.setting_types import Alone, UnitInterval, Unless, _is_union, _parted, choices, expected
from methods.hfi import HFI
from methods.safedir import SafeDir

PLACES = ("bench.reference_images", "cells.proposed_sampling", "cells.settings", "cells.tracker", "micro.hazard_judge",
          "micro.reference", "models.settings", "pool.settings")
for package in (methods, harness.evaluators):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
for place in PLACES:
    importlib.import_module(f"harness.{place}")


def classes(top: type = Declared) -> Iterator[type[Declared]]:
    """Yield every class of ours of which instances are made."""
    for cls in top.__subclasses__():
        if cls.__module__.startswith(("harness.", "methods.")):
            if declared(cls) and not inspect.isabstract(cls) and (not issubclass(cls, Method) or hasattr(cls, "kind")):
                yield cls
            yield from classes(cls)


CLASSES = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes()}


def sample(kind: Any) -> Any:
    """Return a value that a type allows."""
    base, extras = _parted(kind)
    if isinstance(base, type) and issubclass(base, Declared):
        given = inspect.signature(base).parameters.values()
        return {one.name: sample(declared(base)[one.name]) for one in given
                if one.default is one.empty or base is OverviewColumn}
    if _is_union(base):
        return 0.5 if float in get_args(base) else sample(get_args(base)[0])
    if names := choices(kind):
        return names[0]
    if base in (int, float):
        return next((extra.ge for extra in extras if isinstance(extra, Ge)), 0.5 if base is float else 1)
    if get_origin(base) is tuple:
        return [sample(get_args(base)[0])] * 2
    if get_origin(base) is Mapping and get_args(base)[1] is not Any:
        return {"a": sample(get_args(base)[1])}
    text = "a" if any(isinstance(extra, Unless) for extra in extras) else "https://a/{}/{concept}"
    return {str: text, bool: True}.get(base, {"_target_": "harness.evaluators.degenerate.Degenerate"})


def limits(kind: Any) -> Iterator[Any]:
    """Yield values just outside of a type's ranges."""
    base, extras = _parted(kind)
    for extra in extras:
        if isinstance(extra, Ge | Gt):
            yield extra.ge - 1 if isinstance(extra, Ge) else extra.gt
        if isinstance(extra, Le | Lt):
            yield extra.le + 1 if isinstance(extra, Le) else extra.lt
        if isinstance(extra, MinLen):
            yield []
    if choices(kind):
        yield "no such name"
    elif _is_union(base) or any(isinstance(extra, Alone) for extra in extras):
        yield from (value for part in get_args(base)[:1] for value in limits(part))


def refused(cls: type[Declared], **changes: Any) -> str:
    """Return what is said of settings that are all right but for `changes`: one line."""
    with pytest.raises(HarnessError) as caught:
        cls(**{**{name: sample(kind) for name, kind in declared(cls).items()}, **changes})
    said = str(caught.value)
    assert "\n" not in said and isinstance(caught.value, InvalidValueError | UnknownNameError), said
    return said


@pytest.mark.parametrize("name", CLASSES)
def test_a_wrong_type_a_value_out_of_range_and_an_unknown_name_are_one_line(name: str) -> None:
    cls = CLASSES[name]
    for setting, kind in declared(cls).items():
        for wrong in (object(), *limits(kind)):
            where = cls.settings_of.format(name=wrong if setting == "name" else sample(str))
            full = f"{where}.{setting}".strip(".")
            said = refused(cls, **{setting: wrong})
            assert said.startswith((f"{full}=", f"unknown {full} '")), said
            assert choices(kind) or said.endswith(expected(kind)), said
        assert "Did you mean" in refused(cls, **{f"{setting}x": 1})


NEWCOMER = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from harness.method import Method

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True)
class Milder(Method):
    strength: Annotated[float, Ge(0), Le(1)] = 1
    words: tuple[str, ...] = ()
    form: Literal["soft", "hard"] = "soft"
    name: str = "milder"
    kind: ClassVar[str] = "milder"


class NoDataclass(Method):
    name: str = "milder"
    kind: ClassVar[str] = "milder"


class MoreSettings(Milder):
    more: float = 1.0


@dataclass(frozen=True)
class NoKind(Method):
    name: str = "milder"


@dataclass(frozen=True)
class NoName(Method):
    kind: ClassVar[str] = "milder"


@dataclass(frozen=True)
class NotImported(Milder):
    more: Decimal = 1
"""


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a package with a method that says nothing of checks but its annotations, and a config of each class."""
    (tmp_path / "newcomer_package.py").write_text(NEWCOMER)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf/method").mkdir(parents=True)
    for name in ("Milder", "NoDataclass", "MoreSettings", "NoKind", "NoName", "NotImported"):
        settings = {"Milder": "strength: 1\nwords: [a]\nform: soft\n", "NoDataclass": "strength: 2\n"}.get(name, "")
        target = f"newcomer_package.{name}"
        (tmp_path / f"conf/method/{name.lower()}.yaml").write_text(f"name: milder\n_target_: {target}\n{settings}")
    yield tmp_path
    sys.modules.pop("newcomer_package", None)


@pytest.mark.parametrize(("words", "said"), [
    (["method=milder", "method.strength=abc"], "method.strength=abc: expected a number from 0 to 1."),
    (["method=milder", "method.strength=2"], "method.strength=2: expected a number from 0 to 1."),
    (["method=milder", "method.words=abc"], "method.words=abc: expected a list of texts."),
    (["method=milder", "method.form=sof"], "unknown method.form 'sof'. Did you mean: soft?"),
    (["method=milder", "method.strenght=1"], "Did you mean: method.strength,"),
    (["method=nodataclass", "method.strength=1"],
     "newcomer_package.NoDataclass is not a dataclass, so name is not a setting. Write @"),
    (["method=moresettings"], "is not a dataclass, so more is not a setting. Write @dataclass(frozen=True) above"),
    (["method=nokind"], 'has no kind, the name of its algorithm. Write kind: ClassVar[str] = "nokind" in it.'),
    (["method=noname"], 'Write name: str = "noname" in it.'),
    (["method=notimported"], "Import what it names where it is read at run time, not under TYPE_CHECKING."),
])  # fmt: skip
def test_a_newcomers_method_is_checked_by_its_annotations_alone(words: list[str], said: str, newcomer: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"results={newcomer}", "--config-dir", f"{newcomer}/conf", "mode=plan", "limit=1", *words]
    assert main(asked) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("error: ") and err.count("\n") == 1, err


def test_a_newcomers_method_is_checked_in_python_too(newcomer: Path) -> None:
    made = importlib.import_module("newcomer_package").Milder
    assert made(1, words=["a", "b"]).params() == {"strength": 1.0, "words": ["a", "b"], "form": "soft"}
    assert type(made().strength) is float  # a default is read as what is given
    for wrong in ({"strength": "0.5"}, {"strength": True}, {"strength": float("nan")}, {"words": [1]}, {"words": None}):
        with pytest.raises(InvalidValueError, match=f"method.{next(iter(wrong))}="):
            made(**wrong)
    with pytest.raises(UnknownNameError, match="Did you mean: strength"):
        made(strenght=1)
    with pytest.raises(InvalidValueError, match=r"method\.strength=2"):
        replace(made(), strength=2)


def test_a_plain_class_is_checked_by_the_annotations_of_its_arguments() -> None:
    class Plain(Declared):
        def __init__(self, share: UnitInterval, texts: Sequence[str] = (), *, more: int | None = None) -> None:
            self.given = share, texts, more

    assert Plain(1, ["a"]).given == (1.0, ["a"], None)
    assert list(inspect.signature(Plain).parameters) == ["share", "texts", "more"]
    for wrong, said in (({"share": 2}, "share=2"), ({"share": 1, "texts": "a"}, "texts=a"), ({}, "a value for: sh")):
        with pytest.raises(InvalidValueError, match=said):
            Plain(**wrong)


@pytest.mark.parametrize(("change", "said"), [
    ({"training": {"eta": "x"}}, "method.training.eta=x: expected a number from -100 to 100."),
    ({"training": {"etta": 1}}, "unknown setting of method.training 'etta'. Did you mean: eta, text?"),
    ({"training": 3}, "method.training=3: expected settings (parameterisation, eta, "),
    ({"strength": None}, "method.strength=null: expected a number from 0 to 100, or a list of numbers from 0 to 100."),
    ({"strength": [1, "x"]}, "method.strength=[1, 'x']: expected a number from 0 to 100, or a list of"),
    ({"seed": 1.0}, "method.seed=1.0: expected an integer from 0 to 18446744073709551615."),
    ({"strength": 10**400}, "0000...: expected a number from 0 to 100, or"),
])  # fmt: skip
def test_what_is_wrong_inside_of_a_setting_is_named(change: Mapping[str, Any], said: str) -> None:
    with pytest.raises(HarnessError) as caught:
        SafeDir(concept="a", **change)
    assert said in str(caught.value)


def test_what_is_hashed_keeps_its_type() -> None:
    """1 and 1.0 are one configuration where they always were, and two where they always were."""
    made = SafeDir("a", strength=1, training={"eta": 3, "steps": 5})
    assert (made.strength, made.training.eta, made.training.steps) == ((1.0,), 3.0, 5)
    assert [type(one) for one in (made.strength[0], made.training.eta, made.training.steps)] == [float, float, int]
    assert made.params()["concept"] == ["a"]
    kept = HFI(word="a", clip="b", reward={"learning_rate": 1}).params()["reward"]["learning_rate"]
    assert kept == 1 and type(kept) is int
