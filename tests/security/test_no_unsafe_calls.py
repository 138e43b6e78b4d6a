"""The package's own code: nothing that runs what a file contains."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "rlhf_lightning").rglob("*.py"))
UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNNING = {"eval", "exec", "compile", "__import__"}


def dotted(node: ast.expr) -> str:
    """The name that is called, e.g. "torch.load"; nothing where it is not a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_constant(call: ast.Call, name: str, value: object) -> bool:
    given = {k.arg: k.value for k in call.keywords}.get(name)
    return isinstance(given, ast.Constant) and given.value is value


def problems(source: str) -> list[str]:
    """What is unsafe in a module, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and [a.name for a in node.names] != ["UnpicklingError"]:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [f"{node.lineno}: imports {n}" for n in names if UNPICKLING & set(n.split("."))]  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in [a.name for a in node.names]:
            found.append(f"{node.lineno}: torch.load under another name")
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in call_problems(node)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [f"{node.lineno}: trust_remote_code by default" for d in trusting_defaults(node) if d]
    return found


def call_problems(call: ast.Call) -> list[str]:
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    unsafe = {
        f"{name}() runs text": name in RUNNING or name in {"os.system", "os.popen"},
        "torch.load without weights_only=True": name == "torch.load" and not is_constant(call, "weights_only", True),
        "weights_only=False": is_constant(call, "weights_only", False),
        "trust_remote_code=True": is_constant(call, "trust_remote_code", True),
        "use_safetensors=False": is_constant(call, "use_safetensors", False),
        "a pickle is allowed": is_constant(call, "allow_pickle", True),
        "shell=True": is_constant(call, "shell", True),
        "yaml.load": name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"},
        "pandas.read_pickle": last == "read_pickle",
        # Weights of models come from safetensors or not at all (GGUF files hold no code).
        "weights without use_safetensors=True": last == "from_pretrained"
        and "Model" in name
        and not is_constant(call, "use_safetensors", True)
        and "gguf_file" not in {k.arg for k in call.keywords},
    }
    return [problem for problem, there in unsafe.items() if there]


def trusting_defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[bool]:
    positional = [*function.args.posonlyargs, *function.args.args]
    pairs = [
        *zip(positional[len(positional) - len(function.args.defaults) :], function.args.defaults, strict=True),
        *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True),
    ]
    return [a.arg == "trust_remote_code" and not (isinstance(d, ast.Constant) and d.value is False) for a, d in pairs]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_in_the_package_is_unsafe(path: Path) -> None:
    assert problems(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "from six.moves import cPickle",
        "def f():\n    import joblib",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "Trainer().fit(m, weights_only=False)",
        "AutoTokenizer.from_pretrained(n, trust_remote_code=True)",
        "def f(trust_remote_code=True): ...",
        "def f(*, trust_remote_code: bool | None = None): ...",
        "AutoModelForCausalLM.from_pretrained(n)",
        "AutoModelForCausalLM.from_pretrained(n, use_safetensors=None)",
        "PeftModel.from_pretrained(model, n)",
        "eval('1')",
        "exec(code)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_check_sees_it(source: str) -> None:
    assert problems(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "re.compile('a')",
        "AutoModelForCausalLM.from_pretrained(n, use_safetensors=True, trust_remote_code=trust)",
        "AutoModelForCausalLM.from_pretrained(n, gguf_file=f)",
        "def f(key, trust_remote_code=False): ...",
        "json.loads(text)",
    ],
)
def test_the_check_lets_it_pass(source: str) -> None:
    assert problems(source) == []
