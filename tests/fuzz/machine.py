"""The state machine: it keeps objects of every kind, and calls the facade on them in random order.

A step is a line of Python, written to the journal before it runs, so that the journal of a process that died is a
program which shows how (`replay.py` runs and shortens it).
"""

from __future__ import annotations

import gc
import re
import sys
import warnings
from collections.abc import Callable
from random import Random
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.fuzz import calls, prelude
from tests.fuzz.report import Report
from tests.fuzz.values import ABSURD, FIELDS, OBJECTS, PLAIN

_PLACE = re.compile(r"\{([a-z]+)([!@]?)\}")
_MAKES = re.compile(r"(\w+) = (?=\S)")
_CALLBACKS = ("None", "boom", "always(True)", "always(False)", "lambda *a: ({call!})", "lambda *a: ({call!})")
_FOCUS = 0.8  # the share of steps that `only` chooses
_NAMES = {"cname": "cfields", "mname": "mfields", "qname": "qfields", "sname": "sfields"}

RANDOM = st.randoms(use_true_random=False)


class Skip(Exception):
    """The step needs an object that cannot be made now."""


def _is_expression(step: str) -> bool:
    try:
        compile(_PLACE.sub("x", step), "<step>", "eval")
    except SyntaxError:
        return False
    return "{call!}" not in step and "{fn}" not in step


# What a callback or a thread may do.
_EXPRESSIONS = [
    step for group in calls.GROUPS.values() for steps in group.values() for step in steps if _is_expression(step)
]


class Facade(RuleBasedStateMachine):
    """The whole facade. Each rule takes one of the calls of its group."""

    report: ClassVar[Report]
    absurdly: ClassVar[float] = 0.12  # how often a value is absurd where it need not be valid
    only: ClassVar[tuple[str, ...]] = ()  # the groups and scenarios that most steps are of; empty: all of them

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {kind: [] for kind in OBJECTS}
        self.last: dict[str, str] = {}
        self.globals = prelude.namespace()
        self.report.begin()
        sys.unraisablehook = self.report.unraisable
        warnings.simplefilter("ignore")

    @initialize(rng=RANDOM)
    def start(self, rng: Random) -> None:
        self.step("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, nSeqMax=2, nThreads=1))", "start", rng)

    def teardown(self) -> None:
        self.run("logSet(None)", "logSet")
        self.report.write("# the end of the example")
        self.names.clear()
        self.globals.clear()
        prelude.KEPT.clear()
        gc.collect()

    # Steps

    def take(self, group: str, rng: Random) -> None:
        """One step of a group; with `only`, seldom of another one than those."""
        wanted = [name for name in self.only if name in calls.GROUPS]
        if wanted and group not in wanted and rng.random() < _FOCUS:
            group = rng.choice(wanted)
        rows = calls.GROUPS[group]
        name = rng.choice(list(rows))
        self.step(rng.choice(rows[name]), name, rng)

    def step(self, template: str, name: str, rng: Random) -> bool:
        try:
            line = self.expand(template, rng)
        except Skip:
            return False
        made = _MAKES.match(template)
        if made is None or made[1] not in OBJECTS:
            return self.run(line, name)
        kind = made[1]
        target = f"{kind}{rng.randrange(OBJECTS[kind])}"
        done = self.run(target + line[len(kind) :], name)
        if done and self.globals.get(target) is None:
            del self.globals[target]
            self.last.pop(kind, None)
            if target in self.names[kind]:
                self.names[kind].remove(target)
        elif done:
            self.last[kind] = target
            if target not in self.names[kind]:
                self.names[kind].append(target)
        return done

    def run(self, line: str, name: str) -> bool:
        self.report.write(line)
        self.report.steps += 1
        self.report.tried[name] += 1
        try:
            exec(compile(line, "<step>", "exec"), self.globals)
        except BaseException as error:
            self.report.judge(error)
            return False
        self.report.succeeded[name] += 1
        return True

    def make(self, kind: str, rng: Random) -> None:
        if not self.step(calls.MAKERS[kind], f"make {kind}", rng):
            raise Skip

    # Values

    def expand(self, template: str, rng: Random, depth: int = 0) -> str:
        """A template with its placeholders filled in."""
        text = _PLACE.sub(lambda place: self.value(place[1], place[2], rng, depth), template)
        return text.replace("(, ", "(").replace(", , ", ", ")  # where no field was chosen

    def value(self, kind: str, how: str, rng: Random, depth: int) -> str:
        if how == "@":
            if kind not in self.last:
                raise Skip
            return self.last[kind]
        if kind in FIELDS:
            return self.fields(kind, rng, depth)
        if kind == "absurd" or not how and rng.random() < self.absurdly:
            return self.absurd(rng, depth)
        if kind == "any":
            known = self.known()
            if not known:
                raise Skip
            return rng.choice(known)
        if kind in OBJECTS:
            if not self.names[kind] or rng.random() < 0.03:
                self.make(kind, rng)
            return rng.choice(self.names[kind])
        if kind in _NAMES:
            return repr(rng.choice(list(FIELDS[_NAMES[kind]])))
        if kind == "call":
            return self.expand(rng.choice(_EXPRESSIONS), rng, depth + 1) if depth < 2 else "boom()"
        if kind == "fn":
            choice = rng.choice(
                ("None", "boom", "always(True)", "always(False)", "lambda *a: ({call!})", "lambda *a: ({call!})")
            )
            return self.expand(choice, rng, depth)
        return self.expand(PLAIN[kind](rng), rng, depth)

    def absurd(self, rng: Random, depth: int) -> str:
        known = self.known()
        return rng.choice(known) if known and rng.random() < 0.3 else rng.choice(ABSURD)

    def known(self) -> list[str]:
        return [name for names in self.names.values() for name in names]

    def fields(self, kind: str, rng: Random, depth: int) -> str:
        """Some fields of a parameter class as keyword arguments."""
        choices = FIELDS[kind]
        chosen = {"nThreads": "1"} if kind == "cfields" else {}  # more threads than that cost time
        for name in rng.sample(list(choices), min(len(choices), rng.choice((0, 1, 1, 2, 3, 5)))):
            chosen[name] = rng.choice(ABSURD) if rng.random() < self.absurdly * 2 / 3 else rng.choice(choices[name])
        return ", ".join(f"{name}={self.expand(value, rng, depth + 1)}" for name, value in chosen.items())

    # Rules

    @rule(rng=RANDOM)
    def generate(self, rng: Random) -> None:
        """Output, then what reads it: the order that gives most calls something to work on."""
        if self.step("{ctx!}.decode(Batch.getOne({tokens!}))", "Context.decode", rng):
            for group in rng.choices(("compute", "outputs", "views", "memory", "state", "tuning"), k=2):
                self.take(group, rng)

    @rule(rng=RANDOM)
    def scenario(self, rng: Random) -> None:
        """Calls in an order that leads somewhere, with others between them."""
        names = [name for name in self.only if name in calls.SCENARIOS] or list(calls.SCENARIOS)
        for name, template in calls.SCENARIOS[rng.choice(names)]:
            self.step(template, name, rng)
            if rng.random() < 0.2:
                self.take(rng.choice(list(calls.GROUPS)), rng)

    @rule(rng=RANDOM)
    def sample(self, rng: Random) -> None:
        """A chain with a new member picks from a new output."""
        self.take("samplers", rng)
        self.step("{chain!}.chainAdd({sampler!})", "Sampler.chainAdd", rng)
        self.step("{ctx!}.decode(Batch.getOne({tokens!}))", "Context.decode", rng)
        self.step("{chain!}.sample({ctx@}, -1)", "Sampler.sample", rng)

    @rule(rng=RANDOM)
    def threads(self, rng: Random) -> None:
        """Two calls at the same time, often on the same object."""
        self.step("together(lambda: ({call!}), lambda: ({call!}))", "together", rng)

    @rule(rng=RANDOM)
    def callbacks(self, rng: Random) -> None:
        """A callback that raises, answers at random or calls the facade, and then a call in which it runs."""
        self.take("callbacks", rng)
        self.step("{ctx@}.decode(Batch.getOne({tokens!}))", "Context.decode", rng)

    @rule(rng=RANDOM)
    def custom(self, rng: Random) -> None:
        """A chain with a sampler in Python picks from a new output."""
        if self.step("chain = Sampler.chainInit()", "Sampler.chainInit", rng):
            self.step("{chain@}.chainAdd(Sampler.init(custom({apply!}, accept={fn}, reset={fn})))", "Sampler.init", rng)
            self.step("{chain@}.chainAdd(Sampler.initDist({seed!}))", "Sampler.chainAdd", rng)
            if self.step("{ctx@}.decode(Batch.getOne({tokens!}))", "Context.decode", rng):
                self.step("{chain@}.sample({ctx@}, -1)", "Sampler.sample", rng)

    @rule(rng=RANDOM)
    def keep(self, rng: Random) -> None:
        """Keep what a call raised, with all that its frames hold."""
        self.step("caught(lambda: ({call!}))", "caught", rng)

    @rule(rng=RANDOM)
    def forget(self, rng: Random) -> None:
        """Let the garbage collector have an object."""
        known = self.known()
        if known:
            name = rng.choice(known)
            if self.run(f"del {name}", "del"):
                kind = name.rstrip("0123456789")
                self.names[kind].remove(name)
                if self.last.get(kind) == name:
                    del self.last[kind]


def _taking(group: str) -> Callable[[Facade, Random], None]:
    def take(self: Facade, rng: Random) -> None:
        self.take(group, rng)

    take.__name__ = group
    return take


for _group in calls.GROUPS:
    if not hasattr(Facade, _group):
        setattr(Facade, _group, rule(rng=RANDOM)(_taking(_group)))
