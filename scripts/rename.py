"""Renames the project: `python scripts/rename.py my_project`. It needs Python and git, nothing else.

Package, command, metadata, configs, tests and pages about the project get the new name. The engine keeps every byte, so
that it can be updated later: see docs/updating.md. The old name goes into FORMER_NAMES of the package, so that
checkpoints and runs written before still load, test and resume. A refused name changes nothing.
"""

import argparse
import builtins
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

NAME, TITLE = "litcnn", "LitCNN"  # the present name; a rename writes the new one here
ROOT = Path(__file__).resolve().parents[1]
ENGINE = (
    *("src/litengine", "tests/litengine", "tests/support", "docs/architecture.md", "docs/cluster.md", "docs/editor.md"),
    *("docs/deploy.md", "docs/reliability.md", "docs/scale.md", "docs/studies.md", "docs/updating.md"),
)
FORMER_NAMES = re.compile(r"^(FORMER_NAMES\b[^=]*= )\(([^)]*)\)", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Gives the project a name of your own.")
    parser.add_argument("name", help="of the package and the command, such as my_project")
    name = parser.parse_args().name
    try:
        check_form(name)
        paths = tracked()
        check_free(name, paths)
        changed = rename(name, paths)
    except ValueError as error:
        sys.exit(f"error: {error}")
    formatted = tidy(changed)
    git("add", "--all", ".")
    print(f"""\
{len(changed)} files say {name} instead of {NAME}, and src/{NAME} is src/{name}. {formatted}
Checkpoints and runs of {NAME} still load. Pictures show the old name.
All is staged. See it: git diff --cached. Undo it: git reset --hard. Keep it: git commit.
Next: pip uninstall {NAME}, then pip install -e . (make does both).""")


def check_form(name: str) -> None:
    """Raises ValueError if the name is not a good name of a package."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "my_project"
        raise ValueError(
            f"{name!r} is not a package name: use lower-case letters, digits and single underscores, and begin with a "
            f"letter, such as {near}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in dir(builtins):
        raise ValueError(f"{name} is a word of Python: choose another name")


def tracked() -> list[str]:
    """The files that git knows, relative to ROOT.

    Raises ValueError if git could not restore the old state afterwards.
    """
    remedy = 'git init && git add --all && git commit -m "The template"'
    if not shutil.which("git"):
        raise ValueError(f"git is needed: install it, then {remedy}")
    try:
        paths = [path for path in git("ls-files", "-z", ".").split("\0") if path]
        changes = git("status", "--porcelain", ".")
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{ROOT} is not a git checkout ({error.stderr.strip()}): {remedy}") from error
    if "scripts/rename.py" not in paths:
        raise ValueError(f"{ROOT} is not committed: {remedy}")
    if changes:
        raise ValueError(f"commit these changes first:\n{changes.rstrip()}")
    return paths


def of_engine(path: str) -> bool:
    return f"{path}/".startswith(tuple(f"{part}/" for part in ENGINE))


def check_free(name: str, paths: list[str]) -> None:
    """Raises ValueError if the name already means something in Python, in a library or in this project."""
    if name in {"litengine", "build", "dist", "runs", *(Path(part).stem for path in paths for part in path.split("/"))}:
        raise ValueError(f"{name} is a file or folder of this project: choose another name")
    if (ROOT / "src" / name).exists():
        raise ValueError(f"src/{name} exists already: remove it, or choose another name")
    pinned = re.findall(r"^[\w.-]+(?===)", "\n".join(map(read, ROOT.glob("requirements*.txt"))), re.MULTILINE)
    if name in {re.sub(r"[-.]+", "_", package).lower() for package in pinned} or importlib.util.find_spec(name):
        raise ValueError(f"{name} is a package that is installed or that this project needs: choose another name")
    for path in (path for path in paths if path.endswith(".py") and not of_engine(path)):
        try:
            with tokenize.open(ROOT / path) as file:
                words = {token.string for token in tokenize.generate_tokens(file.readline)}
        except (SyntaxError, tokenize.TokenError) as error:
            raise ValueError(f"{path} is not Python ({error}): correct it first") from error
        if name in words:
            raise ValueError(f"{name} is used in {path}: choose another name")


def rename(name: str, paths: list[str]) -> list[str]:
    """Writes the new name into files and moves the folders; returns the new paths of the files that changed."""
    init = f"src/{NAME}/__init__.py"
    found = FORMER_NAMES.search(read(ROOT / init))
    if not found:
        raise ValueError(f"{init} lacks the line that keeps old checkpoints loadable: add FORMER_NAMES = ()")
    former = [old for old in [*re.findall(r"\w+", found[2]), NAME] if old != name]
    changed = []
    for path in paths:
        file = ROOT / path
        if file.is_symlink() or not file.is_file() or path == "LICENSE" or of_engine(path):
            continue
        try:
            text = read(file)
        except UnicodeDecodeError:  # a picture
            continue
        new = translate(text, name)
        if path == init:
            names = str(tuple(former)).replace("'", '"')
            new = FORMER_NAMES.sub(rf"\1{names}", new)
        if new != text:
            file.write_bytes(new.encode())
            changed.append(re.sub(rf"^(src|tests)/{NAME}/", rf"\1/{name}/", path))
    for folder in ("src", "tests"):
        if (ROOT / folder / NAME).is_dir():
            git("mv", f"{folder}/{NAME}", f"{folder}/{name}")
    shutil.rmtree(ROOT / f"src/{NAME}.egg-info", ignore_errors=True)
    return changed


def translate(text: str, name: str) -> str:
    """The text with the new name, my_project or MyProject, in place of the present one where it is a whole word."""
    forms = {NAME: name, TITLE: name.title().replace("_", "")}
    return re.sub(rf"(?:\b|(?<=\\n))({NAME}|{TITLE})\b", lambda match: forms[match[1]], text)


def tidy(changed: list[str]) -> str:
    """Sorts imports and breaks lines for the new name, if ruff is installed; returns what to print about it."""
    places = (ROOT / ".venv/bin", Path(sys.executable).parent, os.environ.get("PATH", ""))
    ruff = shutil.which("ruff", path=os.pathsep.join(map(str, places)))
    code = [path for path in changed if path.endswith((".py", ".ipynb"))]
    if not ruff or not code:
        return "Not formatted: ruff is not installed."
    for step in (["check", "--fix", "--select=I"], ["format"], ["check", "--add-noqa", "--select=E501"]):
        subprocess.run([ruff, *step, *code], cwd=ROOT, capture_output=True, check=False)
    return "Formatted by ruff."


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def read(path: Path) -> str:
    return path.read_bytes().decode()  # keeps the line ends


if __name__ == "__main__":
    main()
