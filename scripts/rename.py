"""Makes the template yours: `python scripts/rename.py my_project`, or `make rename NAME=my_project`.

Package, command, metadata, configs, docs and tests get the new name, in every file that git knows. What remains of the
old one is a sentence at the end of README.md that says where the project comes from. The script removes itself, its
test and what is written about it. It needs Python and git, nothing else; nothing is changed where it refuses.
"""

import argparse
import ast
import builtins
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLD = "litcnn"
ROOT = Path(__file__).resolve().parents[1]
GONE = ("scripts/rename.py", "tests/scripts/test_rename.py")
ABOUT_IT = re.compile(r"\bmake rename\b|scripts/rename\.py")
ORIGIN = "\nMade from LitCNN, a template for image classification under the Apache License 2.0.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Gives this project, a copy of LitCNN, a name of your own.")
    parser.add_argument("name", help="of the package and the command, such as my_project")
    name = parser.parse_args().name
    try:
        check_form(name)
        paths = tracked()
        check_free(name, paths)
    except ValueError as error:
        sys.exit(f"error: {error}")
    changed = rename(name, paths)
    formatted = tidy()
    git("add", "--all", ".")
    print(f"""\
{changed} files say {name} now, and src/{OLD} is src/{name}.
Removed: {", ".join(GONE)}, and what was written about them.
{formatted}
Keep LICENSE, and the last line of README.md, which says where this comes from.
Yours to write: description in pyproject.toml, authors, web addresses. Pictures still show the old name, and
checkpoints made before ask for {OLD}'s classes: {name} cannot read them.
All is staged. To see it: git diff --cached. To take it back: git reset --hard. To keep it: git commit.
Next: make test. Without make: pip uninstall {OLD}, pip install -e .""")


def check_form(name: str) -> None:
    """Raises ValueError for what is no good name of a package, whatever else there is."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "my_project"
        raise ValueError(
            f"{name} is no name for a package: it takes lower-case letters, digits and single underscores, and begins "
            f"with a letter. Such as {near}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in dir(builtins):
        raise ValueError(f"{name} is a word of Python: choose another name")
    if name == OLD:
        raise ValueError(f"{name} is its name already: choose another")


def tracked() -> list[str]:
    """The files that git knows, relative to ROOT. Raises ValueError where the old state could not be had back."""
    remedy = 'git init && git add --all && git commit -m "The template"'
    if not shutil.which("git"):
        raise ValueError(f"git is needed, to know which files are the project's: install it, then {remedy}")
    try:
        paths = [path for path in git("ls-files", "-z", ".").split("\0") if path]
        changes = git("status", "--porcelain", ".")
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{ROOT} is no git checkout ({error.stderr.strip()}): {remedy}") from error
    if GONE[0] not in paths:
        raise ValueError(f"{ROOT} is not committed: {remedy}")
    if changes:
        raise ValueError(f"commit or stash these changes first:\n{changes.rstrip()}")
    return paths


def check_free(name: str, paths: list[str]) -> None:
    """Raises ValueError where the name stands for something else, in Python, in a library, or in this project."""
    taken = "choose another name"
    if (ROOT / "src" / name).exists():  # or git would move the package into it
        raise ValueError(f"src/{name} is there already: remove it, or choose another name")
    if name in sys.stdlib_module_names:
        raise ValueError(f"{name} is a module of Python: {taken}")
    pinned = re.findall(r"^[\w.-]+(?===)", "\n".join(map(read, ROOT.glob("requirements*.txt"))), re.M)
    if name in {re.sub(r"[-.]+", "_", package).lower() for package in pinned} or importlib.util.find_spec(name):
        raise ValueError(f"{name} is a package that this project needs, or one that is installed: {taken}")
    if name in {"build", "dist", "runs", *(path.split("/")[0] for path in paths)}:
        raise ValueError(f"{name} is a folder of this project: {taken}")
    for path in (path for path in paths if path.endswith(".py")):
        try:
            known = identifiers(read(ROOT / path))
        except SyntaxError as error:
            raise ValueError(f"{path}:{error.lineno}: {error.msg}: mend that first") from error
        if name in known:
            raise ValueError(f"{name} stands for something else in {path}: {taken}")


def identifiers(code: str) -> set[str]:
    """What the code imports, defines or names: beside any of these a package of that name would be in the way."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(name for alias in node.names for name in (alias.name.split(".")[0], alias.asname) if name)
            found.add((getattr(node, "module", None) or "").split(".")[0])
    return found


def rename(name: str, paths: list[str]) -> int:
    """Writes the new name into files and paths; returns the number of files whose text changed."""
    git("rm", "--quiet", "--ignore-unmatch", *GONE)
    changed = 0
    for path in paths:
        file = ROOT / path
        if file.is_symlink() or not file.is_file() or path == "LICENSE":
            continue
        try:
            text = read(file)
        except UnicodeDecodeError:  # a picture
            continue
        new = translate(without_renaming(text) if path == "Makefile" or path.endswith(".md") else text, name)
        new += ORIGIN * (path == "README.md")
        if new != text:
            file.write_bytes(new.encode())
            changed += 1
    package = f"src/{OLD}/"
    for path in paths:
        start = package if path.startswith(package) else ""
        new = start + translate(path.removeprefix(start), name)
        if new != path and path not in GONE:
            (ROOT / new).parent.mkdir(parents=True, exist_ok=True)
            git("mv", path, new)
    git("mv", package, f"src/{name}")  # whole, with what git does not know in it
    return changed


def translate(text: str, name: str) -> str:
    """The text with the new name in the form that the old one has: my_project, MyProject or MY_PROJECT."""
    forms = {OLD.upper(): name.upper(), "LitCNN": name.title().replace("_", "")}
    return re.sub(OLD, lambda match: forms.get(match[0], name), text, flags=re.IGNORECASE)


def without_renaming(text: str) -> str:
    """The text without the paragraphs, items of lists and make targets that are about this script."""
    pieces = re.split(r"(?<=\n)(?=\r?\n)|(?<=\n)(?=[-*] )", text)
    text = "".join(piece for piece in pieces if not ABOUT_IT.search(piece))
    return re.sub(r"^(\.PHONY:.*) rename\b", r"\1", text, flags=re.M)


def tidy() -> str:
    """Removes what Python made under the old name, formats the code for the new one; returns what to say of that."""
    for folder in (*(ROOT / "src").rglob("__pycache__"), ROOT / f"src/{OLD}.egg-info"):
        shutil.rmtree(folder, ignore_errors=True)
    places = (ROOT / ".venv/bin", Path(sys.executable).parent, os.environ.get("PATH", ""))
    ruff = shutil.which("ruff", path=os.pathsep.join(map(str, places)))
    if not ruff:
        return "Not formatted for the new name, as there is no ruff: ruff check --fix, and ruff format."
    steps = (
        ("check", "--fix", "--select=I"),  # the order of imports
        ("format",),
        ("check", "--add-noqa", "--select=E501"),  # what it cannot break: docstrings and other long strings
    )
    for step in steps:
        subprocess.run([ruff, *step, "--quiet", "."], cwd=ROOT, check=False)
    return "Formatted by ruff. Lines of text that are too long now carry `# noqa: E501`."


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def read(path: Path) -> str:
    return path.read_bytes().decode()  # with its line ends


if __name__ == "__main__":
    main()
