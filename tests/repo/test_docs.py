"""What the documents say is there: links, commands, configurations, error messages."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from selftrain.main import main
from selftrain_core.config import RunConfig, parse_config

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*ROOT.glob("packages/*/src"), ROOT / "cli/src"]
PROJECT_PAGES = [*sorted((ROOT / "packages").glob("*/README.md")), ROOT / "cli/README.md"]

DATA = {
    "sources": {name: {"name": "core/images", "images": name} for name in ("labelled", "pile", "val", "test")},
    "classes": ["background", "leaf"],
    "labelled": "labelled",
    "unlabelled": "pile",
    "validation": "val",
    "test": "test",
}
COMPLETED = {"task": "segmentation/semantic"}
"""What an excerpt of a configuration leaves out."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MESSAGE = re.compile(r"\*\*`([^`]+)`\*\*")
_OPTIONAL = re.compile(r"[\[\]…]")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def links(text: str) -> set[str]:
    """Return the relative links of a document."""
    found = _LINK.findall(_FENCE.sub("", text))
    return {link for link in found if not re.match(r"[a-z]+:", link)}


def anchors(text: str) -> set[str]:
    """Return what the headings of a document are called in links."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(document: Path, link: str) -> bool:
    """Return whether a relative link of a document leads somewhere."""
    name, _, anchor = link.partition("#")
    target = document.parent / name if name else document
    return target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))


def blocks(text: str) -> list[tuple[str, str]]:
    """Return language and content of the code blocks of a document."""
    return [(language, body) for _, language, body in _FENCE.findall(text)]


def command_lines(text: str) -> list[str]:
    """Return the lines of code blocks that call selftrain, and such calls between backticks."""
    lines = [line.strip() for _, body in blocks(text) for line in body.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(selftrain [^`]+)`", _FENCE.sub("", text))
    return [line.removeprefix("$ ") for line in (*lines, *inline) if line.removeprefix("$ ").startswith("selftrain ")]


def what_is_wrong(line: str) -> str | None:
    """Return what is wrong with a command line, of which nothing is run, or None.

    An argument that is missing is not wrong: ``selftrain run`` may stand for the command itself.
    """
    words = shlex.split(_OPTIONAL.sub(" ", line), comments=True)[1:]
    command: click.Command = main
    context = click.Context(main, info_name="selftrain", resilient_parsing=True)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no command {words[0]}" if words[0].islower() else None
        context = click.Context(found, info_name=words.pop(0), parent=context, resilient_parsing=True)
        command = found
    options = {name for parameter in command.get_params(context) for name in parameter.opts}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]
    return f"{command.name} has no option {unknown[0]}" if unknown else None


def defined(module: str) -> set[str]:
    """Return the names in a module of selftrain's, without importing it."""
    names = (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py")
    (path,) = (path for folder in SOURCES for name in names if (path := folder / name).is_file())
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            found |= set(ast.literal_eval(node.value))  # some are imported only when they are asked for
        found |= {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
        found |= {alias.asname or alias.name for alias in getattr(node, "names", [])}
        found.add(str(getattr(node, "name", "")))
    return found


def texts(source: str) -> Iterator[str]:
    """Yield the texts in a source, the parts that are computed as NUL; no docstrings."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@pytest.fixture(scope="module")
def all_texts() -> list[str]:
    return [text for folder in SOURCES for path in folder.rglob("*.py") for text in texts(path.read_text())]


def occurs(message: str, sources: list[str]) -> bool:
    """Return whether a text holds the parts of a message, which ``…`` divides, in their order."""
    parts = [part.strip() for part in message.split("…") if part.strip()]
    return any(_holds(source, parts) for source in sources)


def _holds(text: str, parts: list[str]) -> bool:
    place = 0
    for part in parts:
        found = text.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [link for link in sorted(links(text)) if not is_there(document, link)] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, *PROJECT_PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    lines = command_lines(document.read_text(encoding="utf-8"))
    assert {line: wrong for line in lines if (wrong := what_is_wrong(line))} == {}


@pytest.mark.parametrize("document", [*DOCUMENTS, *PROJECT_PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_is_valid(document: Path) -> None:
    for language, body in blocks(document.read_text(encoding="utf-8")):
        if language == "yaml":
            assert isinstance(yaml.safe_load(body), dict), body


@pytest.mark.parametrize("document", [*DOCUMENTS, *PROJECT_PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_of_a_configuration_is_one(document: Path, tmp_path: Path) -> None:
    for language, body in blocks(document.read_text(encoding="utf-8")):
        settings = yaml.safe_load(body) if language == "yaml" else {}
        settings.pop("anchors", None)
        if settings.keys() <= RunConfig.model_fields.keys():
            parse_config({**COMPLETED, **settings, "data": {**DATA, **settings.get("data", {})}}, tmp_path)


@pytest.mark.parametrize("document", [*DOCUMENTS, *PROJECT_PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_imports_what_exists(document: Path) -> None:
    for language, body in blocks(document.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("selftrain_"):
                assert {alias.name for alias in node.names} - defined(str(node.module)) == set()


def test_troubleshooting_quotes_messages_that_exist(all_texts: list[str]) -> None:
    messages = _MESSAGE.findall((ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))
    assert len(messages) > 50
    assert [message for message in messages if not occurs(message, all_texts)] == []


def test_documents_are_found() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"your-own-data.md", "numbers.md", "formats.md", "command-line.md", "troubleshooting.md"} <= names
    assert len(command_lines((ROOT / "docs/your-own-data.md").read_text(encoding="utf-8"))) > 5


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("selftrain run my.yaml -o runs/first --set teacher.steps=20", None),
        ("selftrain labels export RUN -o DIR [--limit N]", None),
        ("selftrain config diff A B", None),
        ("selftrain --help", None),
        ("selftrain COMMAND --help", None),
        ("selftrain rum my.yaml", "no command rum"),
        ("selftrain labels exprot RUN", "no command exprot"),
        ("selftrain predict a.jpg --modle runs/first", "predict has no option --modle"),
    ],
)
def test_the_check_sees_a_wrong_command(line: str, wrong: str | None) -> None:
    assert what_is_wrong(line) == wrong


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n[x](#a-b-c) [y](https://e.org) [z](gone.md) [w](page.md#none)\n```\n[v](no.md)\n```\n")
    text = page.read_text()
    assert links(text) == {"#a-b-c", "gone.md", "page.md#none"}
    assert {link for link in links(text) if not is_there(page, link)} == {"gone.md", "page.md#none"}
    source = '"""the moon"""\nx = f"the mask {path} does " "not exist"\n'
    assert occurs("the mask … does not exist", list(texts(source)))
    assert not occurs("does not exist … the mask", list(texts(source)))
    assert not occurs("the moon", list(texts(source)))
