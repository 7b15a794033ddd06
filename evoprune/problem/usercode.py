"""The user's code: the package of a thing, the text of a function, and the names that a function reads."""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import hashlib
import importlib.metadata
import itertools
import linecache
import os
import platform
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType

# Packages whose versions a run records in environment.json: a resume under others warns, and workers with others are refused.
RECORDED = {
    "evoprune": "evoprune",
    "deap": "deap",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "scoop": "scoop",
    "torch": "torch",
}
# The names of a script in the processes that run or import it.
SCRIPT_MODULES = ("__main__", "__mp_main__", "SCOOP_WORKER")
# A file's facts about itself, which depend on how it is run.
_OF_THE_FILE = ("__name__", "__file__", "__package__", "__spec__", "__loader__", "__doc__", "__builtins__", "__annotations__")
# The file name that cloudpickle gives to code that it sent by value.
BY_VALUE = "<dynamic-code>"
# Py_TPFLAGS_HEAPTYPE, which classes have that a class statement made.
_MADE_BY_CODE = 1 << 9
PYTHON = f"python {sys.version_info.major}.{sys.version_info.minor}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run records, without the parts that name a build."""
    found = {"python": platform.python_version()}
    for name in RECORDED.values():
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def package_of_code(code: CodeType) -> str | None:
    """Returns the installed package that code belongs to, see :func:`package_of_module`; None if it is the user's."""
    if code.co_filename.startswith("<frozen "):
        return "python"
    if code.co_filename == BY_VALUE:
        return _texts.get(f"package {key_of(code)}")
    module = _installed_module(code.co_filename)
    return None if module is None else _with_version(module)


def package_of_class(kind: type) -> str | None:
    """Returns the installed package of a class, see :func:`package_of_module`; None if it is the user's."""
    module = kind.__module__
    if module == "builtins" and kind.__flags__ & _MADE_BY_CODE and not hasattr(builtins, kind.__name__):
        return None  # made by code that was run without a module's name
    return package_of_module(module if isinstance(module, str) else "builtins")  # of C's metaclasses it is a descriptor


def package_of_module(name: str | None) -> str | None:
    """Returns the installed package of a module, with its version; None where the module is the user's.

    Of Python itself, and of the packages that a run records, it is the name alone.
    """
    if name is None or name in SCRIPT_MODULES:
        return None
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    is_known = name.partition(".")[0] in (*sys.stdlib_module_names, "builtins", "evoprune", "pybind11_builtins")
    if is_known and (file is None or _installed_module(file) is not None):  # a file of the user's may have such a name
        return _with_version(name)
    if file is None:  # built into an extension, such as torch.ops, or made by hand
        above = name.rpartition(".")[0]
        return package_of_module(above) if above else None
    return None if _installed_module(file) is None else _with_version(name)


@functools.cache
def _with_version(module: str) -> str:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("builtins", "pybind11_builtins"):
        return "python"
    if top in RECORDED:
        return RECORDED[top]
    try:
        return f"{top} {importlib.metadata.version(top)}"
    except importlib.metadata.PackageNotFoundError:  # it has another name; to find it takes seconds
        names = sorted(set(importlib.metadata.packages_distributions().get(top, ())))
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names) or f"{top} of no known version"


@functools.cache
def _installed_module(file: str) -> str | None:
    """Returns the name of the module in a file of an installed package or of Python; None for any other file."""
    path = os.path.realpath(file)
    if path.startswith(os.path.realpath(Path(__file__).parents[1]) + os.sep):
        return "evoprune"
    for root in _roots():
        if path.startswith(root + os.sep):
            inside = Path(path[len(root) + 1 :])
            if inside.parts[0] not in ("site-packages", "dist-packages"):
                return ".".join(inside.with_suffix("").parts)
    return None


@functools.cache
def _roots() -> tuple[str, ...]:
    """Returns the folders of installed packages, and then those of Python itself, in which they may lie."""
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()]
    return tuple(dict.fromkeys(map(os.path.realpath, [*folders, paths["stdlib"], paths["platstdlib"]])))


@functools.lru_cache(maxsize=4096)
def text_of(code: CodeType) -> str:
    """Returns a text that differs between functions of different code: the syntax tree, or without source the instructions.

    Comments, docstrings, annotations, line numbers and the function's own name do not count. A file that was edited since the
    code was loaded does not count as source.
    """
    node = _node_of(code)
    return _texts.get(key_of(code), f"{PYTHON}: {_instructions(code)!r}") if node is None else ast.unparse(node)


def names_read(code: CodeType) -> Iterator[tuple[str, ...]]:
    """Yields the global names that code reads, each with the attributes that are read of it: ``torch.relu`` is two names.

    For a module that is imported inside a function, and for names that are imported from it, the first name is ``import NAME``.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    module = ""
    for i, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval not in _OF_THE_FILE:
            behind = itertools.takewhile(lambda s: s.opname in ("LOAD_ATTR", "LOAD_METHOD"), steps[i + 1 :])
            yield (step.argval, *(attribute.argval for attribute in behind))
        elif step.opname == "IMPORT_NAME":
            level, names = steps[i - 2].argval, steps[i - 1].argval
            module = f"import {'.' * level}{step.argval}"
            if not names:
                yield (module,)
        elif step.opname == "IMPORT_FROM":
            yield (module, step.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_read(constant)


def remember_texts(texts: Mapping[str, str]) -> None:
    """Keeps the texts of code that was sent here without its source; see :func:`key_of`."""
    _texts.update(texts)


# The text of code by its key, which is the only link between code and a source that was not sent with it.
_texts: dict[str, str] = {}


def is_generated(code: CodeType) -> bool:
    """Tells whether code was generated, as a dataclass's methods are: it has no file, or came by value without a text."""
    return code.co_filename == "<string>" or (code.co_filename == BY_VALUE and key_of(code) not in _texts)


def key_of(code: CodeType) -> str:
    """Returns a key of code that is the same in every process: the SHA-256 of its instructions, in hex."""
    return hashlib.sha256(repr(_instructions(code)).encode()).hexdigest()


def _file_text(name: str) -> str:
    linecache.checkcache(name)
    return "".join(linecache.getlines(name))


def _node_of(code: CodeType) -> ast.AST | None:
    """Returns the function's node in its source, without the parts that do not count; None if there is no such source."""
    text = _file_text(code.co_filename)
    if not text:
        return None
    tree, compiled = _parse(text)
    wanted = _instructions(code)
    same = [other for other in compiled if other.co_name == code.co_name and _instructions(other) == wanted]
    same.sort(key=lambda other: abs(other.co_firstlineno - code.co_firstlineno))  # lines may have moved since
    node = _locate(tree, same[0]) if tree is not None and same else None
    return None if node is None else _Plain().visit(ast.parse(ast.unparse(node)).body[0])


@functools.lru_cache(maxsize=64)
def _parse(text: str) -> tuple[ast.Module | None, tuple[CodeType, ...]]:
    """Returns the syntax tree of a file, and the code of all its functions."""
    try:
        tree = ast.parse(text)
        return tree, tuple(_nested(compile(text, "<source>", "exec", dont_inherit=True)))
    except (SyntaxError, ValueError, RecursionError):  # such as a notebook's own syntax
        return None, ()


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _locate(tree: ast.Module, code: CodeType) -> ast.AST | None:
    """Returns the node of a function that was compiled from the tree."""
    if code.co_name != "<lambda>":
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        found = [
            node
            for node in ast.walk(tree)
            if isinstance(node, kinds)
            and node.name == code.co_name
            and min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) == code.co_firstlineno
        ]
        return found[0] if found else None
    places = [(p[0], p[2], p[1], p[3]) for p in code.co_positions() if None not in p and p[2] != p[3]]
    holding = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda) and all(_holds(node.body, *place) for place in places)  # type: ignore[arg-type]
    ]
    return max(holding, key=lambda node: (node.lineno, node.col_offset), default=None)  # the innermost


def _holds(node: ast.expr, line: int, column: int, last_line: int, last_column: int) -> bool:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return begin <= (line, column) and (last_line, last_column) <= end


class _Plain(ast.NodeTransformer):
    """Removes the parts that do not count: docstrings, annotations, and the function's name and decorators."""

    def __init__(self) -> None:
        self.depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = _without_docstring(node.body)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass()
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if self.depth == 0:  # the effect of decorators shows in the function that they have made
            node.name, node.decorator_list = "_", []
        node.body, node.returns = _without_docstring(node.body), None
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:] or [ast.Pass()]
    return body


def _instructions(code: CodeType) -> tuple[object, ...]:
    """Returns all parts of code that decide its behaviour, without file names and line numbers."""
    return (
        code.co_code, code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_names,
        code.co_varnames, code.co_freevars, code.co_cellvars, tuple(map(_constant, code.co_consts)),
    )  # fmt: skip


def _constant(value: object) -> object:
    if isinstance(value, CodeType):
        return _instructions(value)
    if isinstance(value, tuple):
        return ("tuple", *map(_constant, value))
    if isinstance(value, frozenset):
        return ("frozenset", *sorted(map(repr, map(_constant, value))))
    return type(value).__name__, repr(value)  # 1, 1.0 and True are equal
