"""The three files of the configuration: their names, their folder, how one is read into YAML nodes, and how a change is
noticed. Imports little, so that a command that reads one file does not wait for the settings' imports.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from gateway.config.problems import Problems
from gateway.config.source import SourceFile, Value

MAIN_FILE: Final = "metergate.yaml"
PRICES_FILE: Final = "prices.yaml"
PLANS_FILE: Final = "plans.yaml"
LOCAL_FOLDER: Final = Path("config")
# Part of the package, so that an installation from a wheel serves without files of its own.
SHIPPED_FOLDER: Final = Path(__file__).parent / "shipped"
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
# libyaml's where PyYAML was built with it: a price table takes a tenth of the time.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FILES: Final = (MAIN_FILE, PRICES_FILE, PLANS_FILE)

# A file's time of change in nanoseconds, its bytes and its inode.
FileMarks = tuple[int, int, int]


def file_marks(path: Path) -> FileMarks:
    """Return what tells one content of a file from another; zeros where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_file(path: Path, shown: str, environ: Mapping[str, str], problems: Problems) -> Value | None:
    """Return the root of a YAML file, or None and a problem: unreadable, empty, not YAML, several documents."""
    file = SourceFile(shown, environ, problems)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.add(shown, "", f"larger than {MAX_FILE_BYTES} bytes")
            return None
        root = yaml.compose(path.read_text("utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        problems.add(shown, "", "no such file")
    except (OSError, UnicodeDecodeError) as error:
        problems.add(shown, "", f"can't be read: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(f"{shown}:{mark.line + 1}" if mark else shown, "", f"not YAML: {error.problem or error.context}")
    except yaml.YAMLError:
        problems.add(shown, "", "not YAML: a character that YAML doesn't allow")
    else:
        if root is None:
            problems.add(shown, "", "empty")
            return None
        return Value(file, "", root, root.start_mark.line + 1)
    return None


def find_folder(named: Path | None) -> Path:
    """Return the folder that METERGATE_CONFIG names, else `./config` if it has any of the files, else the shipped
    one."""
    if named is not None:
        return named
    here = any((LOCAL_FOLDER / name).is_file() for name in FILES)
    return LOCAL_FOLDER.absolute() if here else SHIPPED_FOLDER
