"""`docs/configuration.md`, rendered from the sources of the config and task models.

Reads the docstring under each field, so a setting is described in one place: where it is declared.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

_HEAD = """# Configuration

Rendered by `everlearn config reference`; a test keeps it equal to the code. `config check` prints a
file as it resolves, defaults and environment included. Unknown keys fail.

"""


def render(verbs: Sequence[tuple[str, str]]) -> str:
    """The whole page; `verbs` are names with one line each."""
    folder = Path(__file__).parent
    parts = [_HEAD, "## Verbs\n\n| verb | does |\n|---|---|\n"]
    parts += [f"| `everlearn {name}` | {text} |\n" for name, text in verbs]
    parts.append("\n## Service: `everlearn.yaml`\n")
    parts += _page("Service", folder / "config.py", folder / "process_log.py")
    parts.append("\n## Task: `tasks/*.yaml`\n")
    parts += _page(
        "Task", *(folder / f"{name}.py" for name in ("task", "rules", "people", "schedule"))
    )
    parts.append("\n## Graders of a task\n")
    parts += _page("Grader", folder / "graders.py")
    return "".join(parts)


def _page(first: str, *sources: Path) -> Iterator[str]:
    classes = [
        node
        for source in sources
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef)
        and all(ast.unparse(base) != "NamedTuple" for base in node.bases)
    ]
    sections = {node.name: (ast.get_docstring(node) or "").split("\n")[0] for node in classes}
    for node in sorted(classes, key=lambda node: node.name != first):
        rows = list(_fields(node, sections))
        if not rows:
            continue
        yield f"\n### {node.name}\n\n{ast.get_docstring(node)}\n\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|\n"
        yield from rows


def _fields(node: ast.ClassDef, sections: dict[str, str]) -> Iterator[str]:
    for index, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        if name in ("model_config", "root", "folder"):
            continue
        after = node.body[index + 1] if index + 1 < len(node.body) else None
        meaning = _doc(after) or sections.get(ast.unparse(statement.annotation), "")
        cells = (f"`{name}`", _type(statement), _default(statement.value), meaning)
        yield "| " + " | ".join(cells) + " |\n"


def _type(statement: ast.AnnAssign) -> str:
    return f"`{ast.unparse(statement.annotation).strip(chr(39))}`".replace("|", "\\|")


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        value = value.args[0] if value.args else None
    return "required" if value is None else f"`{ast.unparse(value)}`"


def _doc(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split()).replace("|", "\\|")
    return ""
