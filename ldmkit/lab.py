"""The notebooks that travel with ldmkit, laid into a folder of the user's.

A notebook that the user has run or changed is never overwritten. One that lies as it was copied
is brought up to date: a small file beside the notebooks keeps the hash of each as it was copied.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ldmkit.records.record import write_atomically

__all__ = ["copy_notebooks", "notebooks_folder", "writable_folder"]

_NEEDED = 20_000_000  # bytes: a page of 4 MB, pictures, notebooks
COPIED = ".ldmkit-notebooks.json"


def notebooks_folder() -> Path:
    """The folder of the shipped notebooks: in the wheel, or a checkout's top level.

    Raises:
        FileNotFoundError: this installation has none.
    """
    package = Path(__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if any(folder.glob("[0-9][0-9]-*.ipynb")):
            return folder
    raise FileNotFoundError(
        "This installation of ldmkit has no notebooks; "
        "install it again with `pip install --force-reinstall ldmkit`."
    )


def copy_notebooks(folder: Path) -> dict[str, str]:
    """Copies the notebooks into a folder, which is made if missing.

    Args:
        folder: where they go.

    Returns:
        File name to what became of it: "copied", "updated", "unchanged" or "kept yours".

    Raises:
        OSError: a file has the folder's name, or it can't be written.
    """
    folder = writable_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    before = _read_hashes(folder / COPIED)
    fates, hashes = {}, {}
    for source in sorted(notebooks_folder().glob("[0-9][0-9]-*.ipynb")):
        data, target = source.read_bytes(), folder / source.name
        fates[source.name] = _fate(data, target, before.get(source.name))
        if fates[source.name] in ("copied", "updated"):
            _write(data, target)
        if fates[source.name] == "kept yours":
            hashes[source.name] = before.get(source.name, "")
        else:
            hashes[source.name] = _hash(data)
    _write(json.dumps(hashes, indent=1).encode(), folder / COPIED)
    return fates


def writable_folder(folder: Path, files: Iterable[str] = ()) -> Path:
    """Tries a folder, before work is spent on what goes there; makes and leaves nothing.

    Args:
        folder: where files will go.
        files: their names; a file of that name will be replaced, a folder can't be.

    Returns:
        The folder's full path.

    Raises:
        OSError: a file is in the way, the folder can't be written, or the disk is full.
    """
    said = f"Files can't be written to {str(folder)!r}"
    try:
        folder = folder.resolve()
        here = next(place for place in (folder, *folder.parents) if place.exists())
        if not here.is_dir():
            raise NotADirectoryError(f"{here} is a file")
        with tempfile.TemporaryFile(dir=here):
            pass
        free = shutil.disk_usage(here).free
    except (OSError, ValueError, RuntimeError) as error:  # or a zero byte, a circle of links
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{said} ({reason}); give another folder.") from None
    taken = [name for name in files if (folder / name).is_dir()]
    if taken:
        raise OSError(f"{said}: {taken[0]!r} is a folder there; give another folder.")
    if free < _NEEDED:
        raise OSError(
            f"{said}: {free / 1e6:.0f} MB are free there and {_NEEDED / 1e6:.0f} needed; "
            "give another folder."
        )
    return folder


def _write(data: bytes, target: Path) -> None:
    def write(part: Path) -> None:
        part.write_bytes(data)

    write_atomically(target, write)


def _fate(data: bytes, target: Path, hash_when_copied: str | None) -> str:
    if not target.exists():
        return "copied"
    present = target.read_bytes()
    if present == data:
        return "unchanged"
    return "updated" if _hash(present) == hash_when_copied else "kept yours"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_hashes(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: then every notebook counts as the user's
        return {}
    return found if isinstance(found, dict) else {}
