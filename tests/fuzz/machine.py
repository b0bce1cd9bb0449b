"""The state machine: it keeps objects of every kind, and calls the facade on them in random order.

A step is a line of Python, written to the journal before it runs, so that the journal of a process that died is a
program which shows how (`replay.py` runs and shortens it).
"""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections import Counter
from random import Random
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.fuzz import calls, prelude
from tests.fuzz.oracle import Boom, fingerprint, is_fine, places, reached_native
from tests.fuzz.values import ABSURD, FIELDS, OBJECTS, PLAIN

_PLACE = re.compile(r"\{([a-z]+)([!@]?)\}")
_MAKES = re.compile(r"(\w+) = (?=\S)")
_ABSURDLY = 0.12  # how often a value is absurd where it need not be valid
_NAMES = {"cname": "cfields", "mname": "mfields", "qname": "qfields", "sname": "sfields"}

RANDOM = st.randoms(use_true_random=False)


class Skip(Exception):
    """The step needs an object that cannot be made now."""


class Report:
    """What happened so far in this process."""

    def __init__(self, journal: int) -> None:
        self.journal = journal
        self.steps = self.examples = 0
        self.raised: Counter[str] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        self.native: dict[str, str] = {}

    def begin(self) -> None:
        """A new example, and a new journal."""
        os.lseek(self.journal, 0, os.SEEK_SET)
        os.ftruncate(self.journal, 0)

    def write(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode("utf-8", "backslashreplace"))

    def lines(self) -> str:
        size = os.fstat(self.journal).st_size
        return os.pread(self.journal, size, 0).decode()

    def judge(self, error: BaseException) -> None:
        """Count an exception; keep the journal of one that should not be."""
        self.raised[type(error).__name__] += 1
        if is_fine(error):
            return
        found = self.native if reached_native(error) else self.findings
        if fingerprint(error) not in found:
            text = "".join(traceback.format_exception(error)).replace("\n", "\n# ")
            found[fingerprint(error)] = f"{self.lines()}# {text}\n"

    def unraisable(self, hook: Any) -> None:
        """An exception that Python could only print. Callbacks of the steps may cause some, the package none."""
        error = hook.exc_value
        if error is None or isinstance(error, Boom) or "<step>" in str(traceback.extract_tb(error.__traceback__)):
            return
        if "log.py" in str(places(error)[-1:]):  # what a target of the log raises is documented to end here
            return
        self.findings.setdefault(f"unraisable {fingerprint(error)}", f"{self.lines()}# {hook.err_msg} {error!r}\n")


_EXPRESSIONS: list[tuple[str, str]] = []
for _group in calls.GROUPS.values():
    for _name, _templates in _group.items():
        for _template in _templates:
            try:
                compile(_PLACE.sub("x", _template), "<call>", "eval")
            except SyntaxError:
                continue
            if "{call!}" not in _template and "{fn}" not in _template:
                _EXPRESSIONS.append((_name, _template))


class Facade(RuleBasedStateMachine):
    """The whole facade. Each rule takes one of the calls of its group."""

    report: ClassVar[Report]

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
        prelude.gc.collect()
        self.report.examples += 1

    # Steps

    def take(self, group: str, rng: Random) -> None:
        """One step of a group."""
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
        if kind == "absurd" or not how and rng.random() < _ABSURDLY:
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
            return self.expand(rng.choice(_EXPRESSIONS)[1], rng, depth + 1) if depth < 2 else "boom()"
        if kind == "fn":
            choice = rng.choice(("None", "boom", "always(True)", "always(False)", "lambda *a: ({call!})", "lambda *a: ({call!})"))
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
            chosen[name] = rng.choice(ABSURD) if rng.random() < 0.08 else rng.choice(choices[name])
        return ", ".join(f"{name}={self.expand(value, rng, depth + 1)}" for name, value in chosen.items())

    # Rules

    @rule(rng=RANDOM)
    def models(self, rng: Random) -> None:
        self.take("models", rng)

    @rule(rng=RANDOM)
    def model_info(self, rng: Random) -> None:
        self.take("model_info", rng)

    @rule(rng=RANDOM)
    def contexts(self, rng: Random) -> None:
        self.take("contexts", rng)

    @rule(rng=RANDOM)
    def compute(self, rng: Random) -> None:
        self.take("compute", rng)

    @rule(rng=RANDOM)
    def generate(self, rng: Random) -> None:
        """Output, then what reads it: the order that gives most calls something to work on."""
        if self.step("{ctx!}.decode(Batch.getOne({tokens!}))", "Context.decode", rng):
            for group in rng.choices(("compute", "outputs", "views", "memory", "state", "tuning"), k=2):
                self.take(group, rng)

    @rule(rng=RANDOM)
    def outputs(self, rng: Random) -> None:
        self.take("outputs", rng)

    @rule(rng=RANDOM)
    def views(self, rng: Random) -> None:
        self.take("views", rng)

    @rule(rng=RANDOM)
    def batches(self, rng: Random) -> None:
        self.take("batches", rng)

    @rule(rng=RANDOM)
    def memory(self, rng: Random) -> None:
        self.take("memory", rng)

    @rule(rng=RANDOM)
    def state(self, rng: Random) -> None:
        self.take("state", rng)

    @rule(rng=RANDOM)
    def tuning(self, rng: Random) -> None:
        self.take("tuning", rng)

    @rule(rng=RANDOM)
    def params(self, rng: Random) -> None:
        self.take("params", rng)

    @rule(rng=RANDOM)
    def samplers(self, rng: Random) -> None:
        self.take("samplers", rng)

    @rule(rng=RANDOM)
    def chains(self, rng: Random) -> None:
        self.take("chains", rng)

    @rule(rng=RANDOM)
    def scenario(self, rng: Random) -> None:
        """Calls in an order that leads somewhere, with others between them."""
        for name, template in calls.SCENARIOS[rng.choice(list(calls.SCENARIOS))]:
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
    def candidates(self, rng: Random) -> None:
        self.take("candidates", rng)

    @rule(rng=RANDOM)
    def text(self, rng: Random) -> None:
        self.take("text", rng)

    @rule(rng=RANDOM)
    def system(self, rng: Random) -> None:
        self.take("system", rng)

    @rule(rng=RANDOM)
    def frees(self, rng: Random) -> None:
        self.take("frees", rng)

    @rule(rng=RANDOM)
    def copies(self, rng: Random) -> None:
        self.take("copies", rng)

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
