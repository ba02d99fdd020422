"""The rules of style: docstrings, short files and functions, few parameters, comments."""

import ast
import builtins
import io
import re
import tokenize

from source_code import MODULES, ROOT, name_of, tree_of

LINES = 250  # of a module
# The loop is one function, to be read from top to bottom, and so is the list of settings.
LONGER = {'train.py': 300, 'config.py': 280}
FUNCTION_LINES = 80
# The train loop, and the list of settings.
LONG_FUNCTIONS = {'train.train', 'config.default'}
POSITIONAL = 4  # parameters; more of them go by keyword
PARAMETERS = 6
# What a network, a loss or a run is made of.
MANY_PARAMETERS = {
    'models.build.build', 'diffusion.loss.draw_inputs', 'diffusion.solver.solve', 'pipeline.draw',
}  # fmt: skip
COMMENTS = 0.07  # of the code lines have one; docstrings do not count


def test_everything_public_has_a_docstring():
    lacking = []
    for path in MODULES:
        tree = tree_of(path)
        if tree.body and not ast.get_docstring(tree):
            lacking.append(name_of(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != '_'
            if public and not ast.get_docstring(node):
                lacking.append(f'{name_of(path)}.{node.name}')
    assert not lacking


def test_modules_are_short_and_finished():
    long, unfinished = {}, []
    for path in [*MODULES, *ROOT.glob('configs/*.py')]:
        text = path.read_text()
        lines = text.count('\n')
        if lines > LONGER.get(path.name, LINES):
            long[path.name] = lines
        if re.search(r'\b(TODO|FIXME|XXX|HACK)\b|\bjax\._src\b|filterwarnings', text):
            unfinished.append(path.name)
    assert not long
    assert not unfinished


def functions():
    """(full name, node) of every function and method of the package."""
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f'{name_of(path)}.{node.name}', node


def test_functions_are_short_and_their_parameters_few():
    long, positional, many = {}, {}, {}
    for name, node in functions():
        lines = node.end_lineno - node.lineno + 1
        if lines > FUNCTION_LINES and name not in LONG_FUNCTIONS:
            long[name] = lines
        places = [arg.arg for arg in node.args.posonlyargs + node.args.args]
        places = [arg for arg in places if arg not in ('self', 'cls')]
        if len(places) > POSITIONAL:
            positional[name] = len(places)
        total = len(places) + len(node.args.kwonlyargs)
        if total > PARAMETERS and name not in MANY_PARAMETERS:
            many[name] = total
    assert not long
    assert not positional
    assert not many


def test_no_call_leaves_a_truth_value_unnamed():
    """`fit(example, True)` does not say what is true; built-in functions have no names for it."""
    bare = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call) or getattr(node.func, 'id', '') in dir(builtins):
                continue
            for argument in node.args:
                value = argument.value if isinstance(argument, ast.Constant) else ...
                if value is None or isinstance(value, bool):
                    bare.append(f'{name_of(path)}:{node.lineno}')
    assert not bare


def test_docstring_lines_have_a_subject():
    """No line opens with a word that leaves the reader looking for what it belongs to."""
    wrong = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for line in (ast.get_docstring(node) or '').splitlines():
                if re.match(r'\s*(?:\*{0,2}[\w, ]+: )?(Of|Likewise|As)\b', line):
                    wrong.append(f'{name_of(path)}: {line.strip()}')
    assert not wrong


def test_comments_explain_the_code(capsys):
    commented = total = 0
    for path in MODULES:
        for line in code_lines(path).values():
            total += 1
            commented += line
    with capsys.disabled():
        print(f'\n{commented / total:.1%} of {total} code lines have a comment')
    assert commented / total >= COMMENTS


def code_lines(path):
    """{line: whether it is or has a comment} without blank lines and docstrings."""
    text = path.read_text()
    docstrings = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    lines = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        rows = range(token.start[0], token.end[0] + 1)
        if token.type == tokenize.COMMENT:
            said = not re.match(r'#\s*(noqa|fmt:)', token.string)
            lines[token.start[0]] = lines.get(token.start[0], False) or said
        elif token.string.strip() and token.type != tokenize.ENDMARKER:
            for row in rows:
                if row not in docstrings:
                    lines.setdefault(row, False)
    return lines
