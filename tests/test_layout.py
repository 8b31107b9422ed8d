"""Rules of the layout: allowed imports, modules that must not import torch or a screen, and sizes of modules and functions.

A room is a package or a module at the top level of `charrnn`. `charrnn` itself is its `__init__.py`.
"""

import ast
from functools import cache
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

PACKAGE = ROOT / "charrnn"
ARROWS = {  # each room and the rooms that it imports; no other arrows are allowed
    "errors": "",
    "version": "",
    "text": "errors",
    "network": "",
    "options": "errors network text",
    "headers": "errors network options text version",
    "checkpoint": "errors headers text version",
    "run_folder": "checkpoint errors headers text",
    "inference": "checkpoint errors headers network run_folder text",
    "training": "checkpoint errors headers inference network options run_folder text version",
    "forecast": "checkpoint errors headers network options text",
    "export": "checkpoint errors headers inference network text version",
    "terminal": "errors headers inference text training",
    "interactive": "errors inference text",
    "report": "export headers inference options terminal text training version",
    "commands": "checkpoint errors export forecast headers inference interactive options report run_folder terminal text "
    "training",
    "cli": "commands errors terminal training version",
    "api": "errors inference options run_folder terminal text training",
    "charrnn": "api errors inference version",
    "__main__": "cli errors",
}
CORE = {"text", "network", "inference", "training", "forecast", "export", "headers", "checkpoint", "run_folder", "options"}
SCREENS = {"terminal", "interactive", "report", "commands", "cli", "api", "rich", "typer"}
TORCH_FREE = CORE - {"network", "training", "forecast"} | {"terminal", "interactive", "report", "commands", "cli", "api"}
TORCH_FREE_MODULES = {f"charrnn.network.{name}" for name in ("cells", "config", "engine")}
TYPED = {"header", "config", "record", "metrics", "training", "recipe", "origin", "place"}  # dataclasses, not dicts
BORDER = {"headers.py", "checkpoint.py", "run_folder.py", "options.py"}  # where JSON becomes dataclasses


def name_of(path):
    """The module's name: `charrnn.text.corpus`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def room_of(module):
    return module.split(".")[1] if "." in module else module


def is_command(module):
    return room_of(module) == "commands"


def imports_of(module, tree=None):
    """All modules that a module imports: at its top, inside functions, and for type checkers."""
    found = set()
    for node in ast.walk(tree or tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def imports_at_once(module):
    """The modules imported at a module's top, outside `if TYPE_CHECKING`."""
    body = [
        node
        for node in tree_of(module).body
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return imports_of(module, ast.Module(body, []))


def functions():
    """Yield (place, module, function) for every function."""
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{module}:{node.lineno} {node.name}", module, node


def test_every_room_is_in_the_table_and_there_are_at_most_20():
    assert {room_of(module) for module in MODULES} == set(ARROWS)
    assert len(ARROWS) <= 20


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_the_rooms_of_its_row_and_no_others(room):
    arrows = {
        (room_of(imported), f"{module} imports {imported}")
        for module in MODULES
        if room_of(module) == room
        for imported in imports_of(module)
        if imported in MODULES and room_of(imported) != room
    }
    allowed = set(ARROWS[room].split())
    assert not {arrow for target, arrow in arrows if target not in allowed}
    assert not allowed - {target for target, _ in arrows}, "the table allows what nobody needs any more"


def test_arrows_go_one_way_between_rooms_and_between_modules():
    TopologicalSorter({room: row.split() for room, row in ARROWS.items()}).prepare()  # raises CycleError
    TopologicalSorter({module: imports_of(module) & set(MODULES) for module in MODULES}).prepare()


def test_the_core_imports_no_screen():
    found = {
        f"{module} imports {imported}"
        for module in MODULES
        if room_of(module) in CORE
        for imported in imports_of(module)
        if (room_of(imported) if imported in MODULES else imported.split(".")[0]) in SCREENS
    }
    assert not found


def test_what_runs_a_model_never_imports_torch():
    def is_free(module):
        return room_of(module) in TORCH_FREE or module in TORCH_FREE_MODULES

    for module in filter(is_free, MODULES):
        assert "torch" not in {imported.split(".")[0] for imported in imports_of(module)}, module
        reached, left = set(), [module]
        while left:
            now = left.pop()
            new = imports_at_once(now) - reached
            assert "torch" not in {imported.split(".")[0] for imported in new}, f"{module} imports torch by {now}"
            reached |= new
            left += new & set(MODULES)


def test_init_files_of_packages_are_empty():
    assert not [path for path in PACKAGE.glob("*/__init__.py") if path.read_text().strip()]


def test_modules_and_functions_stay_small():
    assert not [module for module, path in MODULES.items() if len(path.read_text().splitlines()) > 350]
    # A command's parameters are its options: their list is not counted.
    long = [place for place, module, f in functions() if f.end_lineno - (f.body[0] if is_command(module) else f).lineno >= 60]
    assert len(long) <= 6, long
    wide = []
    for place, module, function in functions():
        arguments = function.args
        names = [argument.arg for argument in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        if len(set(names) - {"self", "cls"}) > 7 and not is_command(module):
            wide.append(place)
    assert len(wide) <= 2, wide


def test_headers_and_histories_are_dataclasses_to_all_but_the_modules_that_read_them():
    found = []
    for module, path in MODULES.items():
        if str(path.relative_to(PACKAGE)) in BORDER:
            continue
        for node in ast.walk(tree_of(module)):
            match node:
                case ast.Subscript(value=owner, slice=ast.Constant(value=str())):
                    pass
                case ast.Call(func=ast.Attribute(value=owner, attr="get"), args=[ast.Constant(value=str()), *_]):
                    pass
                case _:
                    continue
            if (getattr(owner, "id", None) or getattr(owner, "attr", None)) in TYPED:
                found.append(f"{module}:{node.lineno} {ast.unparse(node)}")
    assert not found
