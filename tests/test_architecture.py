"""The shape of the repository, held by a test: imports point one way, models and data have one door each."""

import ast
from pathlib import Path

import pytest
from small import REPOSITORY, run_script

# From the ground up: a package imports from those before it alone.
LAYERS = ["runtime", "configs", "data", "modeling", "prediction", "model_evaluation", "training", "deployment"]
WINGS = {"training", "model_evaluation", "deployment"}  # that do not know each other
SCRIPTS = ["train", "eval", "inference"]
SOURCES = [path for layer in LAYERS for path in sorted((REPOSITORY / layer).rglob("*.py"))]
FOLDERS = sorted({path.parent for path in SOURCES})
MOST_MODULES = 10
ALL = [*SOURCES, *(REPOSITORY / f"{name}.py" for name in SCRIPTS), *sorted((REPOSITORY / "benchmarks").glob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def calls(path: Path) -> set[str]:
    nodes = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in nodes}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_one_way(path):
    package = path.relative_to(REPOSITORY).parts[0]
    above = set(LAYERS[LAYERS.index(package) + 1 :] + SCRIPTS)
    others = WINGS - {package} if package in WINGS else set()
    assert not imported_packages(path) & (above | others)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(REPOSITORY)))
def test_a_folder_can_be_taken_in_at_a_glance(folder):
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, modules


@pytest.mark.parametrize(("name", "home"), [("from_pretrained", "modeling"), ("load_dataset", "data")])
def test_one_door_for_models_and_one_for_datasets(name, home):
    users = {path.relative_to(REPOSITORY).parts[0] for path in ALL if name in calls(path)}
    assert users == {home}


def test_nothing_edits_sys_path_or_trusts_remote_code_or_catches_everything():
    for path in ALL:
        text = path.read_text(encoding="utf-8")
        assert "sys.path" not in text and "trust_remote_code" not in text.replace("trust_remote_code=False", ""), path
        handlers = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler)]
        assert all(handler.type is not None for handler in handlers), path


@pytest.mark.parametrize("script", ["train.py", "eval.py", "inference.py"])
def test_help_answers_without_heavy_imports(script):
    result = run_script("-X", "importtime", script, "--help")
    assert result.returncode == 0 and "--model_" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "datasets", "peft", "sklearn"}


@pytest.mark.parametrize("script", ["train.py", "eval.py", "inference.py"])
def test_help_shows_commands(script):
    assert f"    python {script} --" in run_script(script, "--help").stdout


def test_documents_are_finished():
    for path in REPOSITORY.glob("*.md"):
        assert "@@" not in path.read_text(encoding="utf-8"), path


def test_train_py_can_be_read_in_one_go():
    assert len((REPOSITORY / "train.py").read_text(encoding="utf-8").splitlines()) <= 150
