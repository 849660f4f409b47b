"""The house: who imports whom. import-linter keeps the layers, this keeps single files apart."""

import ast
from pathlib import Path

import ldmkit

ROOT = Path(ldmkit.__file__).parent


def imports_of(path, names):
    """Modules of ldmkit that a file imports, inside functions too, under TYPE_CHECKING not."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in names)
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:  # `from package import module` means the module
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in names else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found & names


def modules():
    """Name of each module to its file; a package is its ``__init__``."""
    named = {}
    for path in ROOT.rglob("*.py"):
        parts = ("ldmkit", *path.relative_to(ROOT).with_suffix("").parts)
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def circles(graph):
    """Groups of modules that reach each other (Tarjan 1972)."""
    index, low, stack, groups = {}, {}, [], []

    def connect(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                connect(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            cut = stack.index(name)
            groups.append(sorted(stack[cut:]))
            del stack[cut:]

    for name in graph:
        if name not in index:
            connect(name)
    return [group for group in groups if len(group) > 1 or group[0] in graph[group[0]]]


def test_a_circle_would_be_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e"]]


def test_no_file_imports_another_in_a_circle():
    named = modules()
    assert circles({name: imports_of(path, set(named)) for name, path in named.items()}) == []


OF_OTHERS = (
    "_asdict",
    "_fields",
    "_make",
    "_replace",
    "_buffers",
    "_modules",
    "_parameters",
    "_version",
)


def private(name):
    """Whether a name is for its own file alone; named tuples, torch and IPython have theirs."""
    return name.startswith("_") and not name.startswith(("__", "_repr_")) and name not in OF_OTHERS


def defined_in(tree):
    """Every name that a file gives to something: functions, classes, variables, attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def borrowed(tree, everywhere):
    """Private names of other files that a file uses; a subclass may use its parent's."""
    own = defined_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ldmkit"):
            yield from (alias.name for alias in node.names if private(alias.name))
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            inherited = ast.unparse(node.value) in ("self", "cls", "super()")
            if node.attr in everywhere and not inherited:
                yield node.attr


def test_a_borrowed_private_name_would_be_found():
    code = "from ldmkit.a import _x, y\ny._z\nself._w\nclass A:\n    _v = 1\n\nA._v\nother._u\n"
    assert list(borrowed(ast.parse(code), {"_z", "_w", "_v"})) == ["_x", "_z"]


def test_no_file_uses_a_private_name_of_another():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in modules().values()}
    everywhere = set().union(*map(defined_in, trees.values()))
    found = {
        path.relative_to(ROOT): set(borrowed(tree, everywhere)) for path, tree in trees.items()
    }
    assert {path: names for path, names in found.items() if names} == {}
