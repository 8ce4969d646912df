"""The list of every module in docs/layout.md, made of what each module says of itself first.

python -m tests.support.layout_page      writes it anew
"""

import ast
import re
import textwrap

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "layout.md"
PACKAGE = ROOT / "ntt_ray"
WIDTH = 118
_BETWEEN = re.compile(r"(?<=```text\n).*?(?=```)", re.DOTALL)


def first_sentence(docstring: str) -> str:
    """What stands before the first full stop, on one line."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"\. ", paragraph + " ", maxsplit=1)[0].rstrip(" .:")


def tree() -> str:
    """Folders and modules in the order of their names, each with its first sentence."""
    lines = ["ntt_ray/"]
    for path in sorted(PACKAGE.rglob("*.py"), key=_place):
        parts = path.relative_to(PACKAGE).parts
        if parts == ("__init__.py",):
            continue
        is_folder = parts[-1] == "__init__.py"
        name = f"{parts[-2]}/" if is_folder else parts[-1]
        depth = len(parts) - is_folder
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        start = "  " * depth + name
        lines += textwrap.wrap(
            first_sentence(docstring),
            WIDTH,
            initial_indent=start.ljust(26) + " ",
            subsequent_indent=" " * 27,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start]
    return "\n".join(lines) + "\n"


def _place(path) -> tuple:
    """Modules of a folder before its folders."""
    parts = path.relative_to(PACKAGE).parts
    return tuple((part != "__init__.py", not part.endswith(".py"), part) for part in parts)


def written_tree() -> str:
    """The tree as the page has it."""
    found = _BETWEEN.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no list"
    return found[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BETWEEN.sub(lambda _: tree(), text), encoding="utf-8")
