"""Checksums of a checkpoint's files: written after its commit, verified before reading."""

import hashlib
import json
from pathlib import Path

from jaxmodels.cli import write_atomically
from jaxmodels.json_text import decode_json

MANIFEST = "manifest.json"
METADATA = "_CHECKPOINT_METADATA"  # Orbax's own file, the last but one to be written


def write_manifest(path: Path) -> None:
    """Record size and SHA-256 of every file of a committed checkpoint."""
    files = {str(f.relative_to(path)): _checksum(f) for f in sorted(path.rglob("*")) if f.is_file()}
    write_atomically(path / MANIFEST, json.dumps({"files": files}, indent=1))


def why_no_checkpoint(path: Path) -> str | None:
    """Return why a folder is none that Orbax committed, e.g. empty or copied in part, or None."""
    try:
        info = decode_json((path / METADATA).read_text())["custom_metadata"]
    except FileNotFoundError:
        return f"{METADATA} is missing" if any(path.iterdir()) else "an empty folder"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{METADATA} is unreadable"
    return None if isinstance(info, dict) and "format" in info else f"{METADATA} is not of a run"


def find_corruption(path: Path) -> str | None:
    """Return the first mismatch between a checkpoint's files and its manifest, or None."""
    if reason := why_no_checkpoint(path):
        return reason
    manifest = path / MANIFEST
    if not manifest.exists():
        return None
    try:
        files = decode_json(manifest.read_text())["files"]
        for name, (size, checksum) in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if _checksum(file)[1] != checksum:
                return f"{name} was altered"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is unreadable"
    return None


def _checksum(file: Path) -> tuple[int, str]:
    with open(file, "rb") as stream:
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
