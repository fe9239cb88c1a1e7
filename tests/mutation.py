"""Mutation testing: are small faults in a module noticed by its tests?

    python tests/mutation.py cost                    every mutant of the area's modules
    python tests/mutation.py engine -n 150 --seed 1  so many of them, drawn at random
    python tests/mutation.py vispco/schedule.py:63   those of one line, to look at survivors again

Prints every survivor and, per area, how many mutants were killed. `tests/mutants.md` holds the figures and explains the
survivors. A mutant changes one thing: a comparison, an operator, a number by one, a condition, what is returned, a
statement or an argument that is missing, two arguments that are swapped, an end of a slice, min for max, any for all.
Not changed are text, type annotations (but for the calls in them, which pydantic runs), decorators and asserts.

Third-party modules are imported once. Every mutant gets a process of its own, forked, in which vispco and its tests are
imported afresh and the mutated module is compiled from the changed tree. Nothing is written to the checkout.
"""

import argparse
import ast
import copy
import gc
import importlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
SCRATCH = tempfile.TemporaryDirectory(prefix="mutation-")
COSTS = ["tests/cost/test_flops.py", "tests/cost/test_limits.py"]
CUTS = [f"tests/engine/test_{name}.py" for name in ("prefill", "cache", "pruning", "generation", "merging", "relaxed")]
TIMES = ["tests/cost/test_latency.py"]
AREAS = {
    "schedule": {"vispco/schedule.py": ["tests/test_schedule.py"]},
    "cost": {
        "vispco/cost/base.py": [*COSTS, "tests/cost/test_memory.py", *TIMES],
        "vispco/cost/flops.py": [*COSTS, "tests/cost/test_decode_flops.py"],
        "vispco/cost/latency.py": TIMES,
        "vispco/cost/memory.py": ["tests/cost/test_memory.py", *COSTS],
        "vispco/cost/registry.py": [*COSTS, *TIMES],
        "vispco/cost/shape.py": [*COSTS, "tests/cost/test_memory.py", "tests/engine/test_refusals.py"],
        "vispco/cost/table.py": TIMES,
    },
    "lagrangian": {
        "vispco/search/lagrangian.py": ["tests/search/test_lagrangian.py", "tests/search/test_lagrangian_kkt.py"]
    },
    "frontier": {
        f"vispco/frontier/{name}.py": [f"tests/frontier/test_{name}.py"]
        for name in ("indicators", "intervals", "points", "ranks")
    },
    "engine": {
        "vispco/engine/gathering.py": [*CUTS, "tests/engine/test_backends.py"],
        "vispco/engine/cache.py": CUTS,
        "vispco/engine/running.py": [*CUTS, "tests/engine/test_training.py", "tests/engine/test_checkpointing.py"],
        "vispco/engine/prefill.py": [*CUTS, "tests/engine/test_signals.py", "tests/engine/test_layout.py"],
        "vispco/engine/pruning.py": [*CUTS, "tests/engine/test_no_trace.py", "tests/engine/test_refusals.py"],
        "vispco/selectors/ranking.py": [
            f"tests/{name}.py"
            for name in ("selectors/test_ranking", "selectors/test_conformance", "engine/test_prefill")
        ],
    },
}
"""Modules of every area, with the fast tests that have to notice."""

COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
PAIRS = [
    ("min", "max"),
    ("any", "all"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("floor", "ceil"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
]
OPPOSITES = {name: other for pair in PAIRS for name, other in (pair, pair[::-1])}


@dataclass
class Mutant:
    """One change of one node of a module's tree."""

    module: str
    tree: ast.Module
    place: Any
    key: Any
    original: ast.AST
    replacement: ast.AST

    @property
    def line(self) -> int:
        return next(vars(node)["lineno"] for node in ast.walk(self.original) if "lineno" in vars(node))

    def __str__(self) -> str:
        before, after = (" ".join(ast.unparse(node).split()) for node in (self.original, self.replacement))
        return f"{self.module}:{self.line}  {before[:90]}  ->  {after[:90]}"

    def code(self) -> str:
        self.place[self.key] = self.replacement
        try:
            return ast.unparse(self.tree)
        finally:
            self.place[self.key] = self.original


def find_mutants(module: str) -> list[Mutant]:
    tree = ast.parse((ROOT / module).read_text())
    return [Mutant(module, tree, *site) for site in _sites(tree)]


def _sites(node: ast.AST, annotation: bool = False) -> Iterator[tuple[Any, Any, ast.AST, ast.AST]]:
    for name, value in ast.iter_fields(node):
        if name == "decorator_list":
            continue
        typed = annotation or name in ("annotation", "returns")
        children = list(enumerate(value)) if isinstance(value, list) else [(name, value)]
        for key, child in children:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert):
                continue
            inside = typed and not isinstance(child, ast.Call)
            for replacement in () if inside else _replacements(child):
                yield (value if isinstance(value, list) else vars(node)), key, child, replacement
            yield from _sites(child, inside)


def _changed(node: ast.AST, **fields: Any) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _opposite(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for index, operator in enumerate(ops):
                for other in COMPARISONS[type(operator)]:
                    yield _changed(node, ops=[*ops[:index], other(), *ops[index + 1 :]])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator):
            if type(operator) in ARITHMETIC:
                yield _changed(node, op=ARITHMETIC[type(operator)]())
        case ast.BoolOp(op=operator):
            yield _changed(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield _changed(node, test=_opposite(test))
        case ast.comprehension(ifs=ifs) if ifs:
            yield _changed(node, ifs=[_opposite(ifs[0]), *ifs[1:]])
        case ast.Slice(lower=lower, upper=upper):
            for end in [name for name, there in (("lower", lower), ("upper", upper)) if there is not None]:
                yield _changed(node, **{end: None})
        case ast.Name(id=name) if name in OPPOSITES and isinstance(node.ctx, ast.Load):
            yield _changed(node, id=OPPOSITES[name])
        case ast.Attribute(attr=name) if name in OPPOSITES and isinstance(node.ctx, ast.Load):
            yield _changed(node, attr=OPPOSITES[name])
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield _changed(node, value=ast.Constant(None))
        case ast.Expr(value=ast.Constant()):
            pass  # a docstring
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Expr() | ast.Raise() | ast.Continue():
            yield _dropped(node)
        case ast.Call(args=args, keywords=keywords):
            if len(args) > 1:
                yield _changed(node, args=args[:-1])
                yield _changed(node, args=[args[1], args[0], *args[2:]])
            for index in range(len(keywords)):
                yield _changed(node, keywords=[*keywords[:index], *keywords[index + 1 :]])
    if isinstance(node, ast.AugAssign):
        yield _dropped(node)


def _dropped(node: ast.AST) -> ast.AST:
    return ast.copy_location(ast.Pass(), node)


def run_tests(tests: list[str], module: str | None = None, code: str | None = None) -> int:
    """Exit status of pytest in this process, with ``module`` compiled from ``code``."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if module is not None and code is not None:
        compiled, load = compile(code, str(ROOT / module), "exec"), SourceFileLoader.get_code
        SourceFileLoader.get_code = (  # type: ignore[method-assign, assignment]
            lambda self, name: compiled if Path(self.path) == ROOT / module else load(self, name)
        )
    unshrunk = [Phase.explicit, Phase.generate]  # that there is a failure is enough
    settings.register_profile("unshrunk", derandomize=True, database=None, deadline=None, phases=unshrunk)
    options = ["-x", "-q", "-m", "not slow and not gpu", "--timeout=0", "--hypothesis-profile=unshrunk"]
    # Folders of its own: of those that sessions share by default, each removes older ones.
    apart = ["-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={SCRATCH.name}/{os.getpid()}"]
    return int(pytest.main([*options, *apart, *tests]))


def start(tests: list[str], module: str | None = None, code: str | None = None) -> int:
    pid = os.fork()
    if not pid:
        status = 99
        try:
            os.setpgid(0, 0)
            status = run_tests(tests, module, code)
        finally:
            os._exit(status)
    return pid


def prepare(tests: list[str]) -> float:
    """Import what the tests import from other packages, so that forks need not; seconds of a run that must pass."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as names:
        pid = os.fork()
        if not pid:
            status = run_tests(tests)
            foreign = [
                key for key, value in sys.modules.items() if "site-packages" in (vars(value).get("__file__") or "")
            ]
            Path(names.name).write_text(json.dumps(foreign))
            os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            sys.exit(f"without any mutation these tests do not pass: {' '.join(tests)}")
        seconds = time.monotonic() - began
        for name in json.loads(names.read()):
            try:
                importlib.import_module(name)
            except Exception:  # some modules only import from within another
                continue
    gc.freeze()  # else the first collection in every fork would copy all pages
    return seconds


def survivors(mutants: list[Mutant], tests: dict[str, list[str]], workers: int) -> list[Mutant]:
    """Mutants with which all tests pass in time."""
    seconds = {files: prepare(list(files)) for files in dict.fromkeys(map(tuple, tests.values()))}
    limit = {module: 15 + 3 * workers * seconds[tuple(files)] for module, files in tests.items()}
    waiting, running, alive = list(reversed(mutants)), dict[int, tuple[Mutant, float]](), list[Mutant]()
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop()
            pid = start(tests[mutant.module], mutant.module, mutant.code())
            running[pid] = mutant, time.monotonic() + limit[mutant.module]
        for pid, (mutant, deadline) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done and time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, 0)
            if done:
                del running[pid]
                if not os.waitstatus_to_exitcode(status):
                    alive.append(mutant)
                    print("survived", mutant, flush=True)
        time.sleep(0.02)
    return alive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help=f"{', '.join(AREAS)}, or one of their modules, or module:line")
    parser.add_argument("-n", "--number", type=int, help="mutants to draw per area or module; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    tests = dict(itertools.chain.from_iterable(modules.items() for modules in AREAS.values()))
    for what in options.what:
        began = time.monotonic()
        module, _, line = what.partition(":")
        modules = list(AREAS.get(what, {module: None}))
        found = [mutant for name in modules for mutant in find_mutants(name) if line in ("", str(mutant.line))]
        if options.number is not None and options.number < len(found):
            found = random.Random(options.seed).sample(found, options.number)
        alive = survivors(found, {name: tests[name] for name in modules}, options.workers)
        for name in modules:
            total, lived = (sum(mutant.module == name for mutant in some) for some in (found, alive))
            print(f"{name}: {total - lived} of {total} killed")
        killed, seconds = len(found) - len(alive), time.monotonic() - began
        print(f"{what}: {killed} of {len(found)} killed = {killed / max(len(found), 1):.1%}", end=" ")
        print(f"(seed {options.seed}, {seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
