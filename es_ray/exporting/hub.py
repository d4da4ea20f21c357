"""A folder on the Hugging Face hub, or on what speaks its API (`HF_ENDPOINT`)."""

from pathlib import Path
from typing import Final

from es_ray.errors import RunError, UserError

REPLACED: Final = (
    "model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin",
    "pytorch_model.bin.index.json", "adapter_config.json", "adapter_model*",
)  # fmt: skip
"""Files of an earlier model or adapter, which loaders would take instead of, or with, what is pushed."""


def check_name(name: str) -> None:
    """Raise UserError for what cannot be a repository's name."""
    if not _is_name(name):
        raise UserError(f"--push-to-hub {name}: must be NAME or OWNER/NAME of letters, digits, -, _ and .")


def check_base(name: str) -> None:
    """Raise UserError for what cannot be a base model's name on the hub."""
    if name.count("/") != 1 or not _is_name(name):
        raise UserError(f"--base {name}: must be OWNER/NAME, the base model's name on the hub")


def _is_name(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload all files of a folder into a repository, which is made if it is missing.

    Other weights and adapters that are there are removed in the same commit; all else stays.

    The token is huggingface_hub's own: of `hf auth login`, or HF_TOKEN. private: for a new repository.
    Returns the address. Raises RunError of one line; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        repo = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo.repo_id,
            commit_message="Export by es-ray",
            delete_patterns=list(REPLACED),
        )
    except Exception as error:  # its libraries for HTTP have changed, and with them what they raise
        raise RunError(f"--push-to-hub {name}: {_said(error)}; {folder} is complete") from error
    return str(repo)


def _said(error: BaseException) -> str:
    """What went wrong, in one line, without addresses of requests and their ids."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses it ({status}): log in with hf auth login, or set HF_TOKEN, with write access"
    root = error
    while root.__cause__ is not None:  # of an upload in a thread, what it failed of
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return (lines[0] if lines else type(root).__name__)[:200]
